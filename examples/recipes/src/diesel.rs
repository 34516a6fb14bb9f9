//! diesel: the blocking query runs on a blocking thread, and its time counts for the waiting request.

use diesel::connection::LoadConnection;
use diesel::pg::Pg;
use diesel::prelude::*;
use tollgate::timing::timed_query;

diesel::table! { users (id) { id -> Integer, name -> Text } }

pub async fn names<C>(mut connection: C, id: i32) -> QueryResult<Vec<String>>
where
    C: LoadConnection<Backend = Pg> + 'static,
{
    let query = users::table.filter(users::id.eq(id)).select(users::name);
    // The text ends with the parameters in a comment, which the fingerprint omits.
    let sql = diesel::debug_query::<Pg, _>(&query).to_string();
    let load = tokio::task::spawn_blocking(move || query.load(&mut connection));
    timed_query(&sql, load).key(&id).await.expect("the query ends")
}
