//! All that Tollgate adds to the shop.

use std::time::Duration;

use tollgate::cache::{Rule, Rules};
use tollgate::identity::{Key, KeyExtractor, TrustedProxies, by};
use tollgate::limit::{ConcurrencyLimit, Count, Limit, Tiers};
use tollgate::{Error, Tollgate};

use crate::api::Authenticated;

pub(crate) fn gate() -> Result<Tollgate, Error> {
    let user = by::extension_with(|found: &Authenticated| Some(Key::number("user", found.user()?.id)));
    let article = Rule::ttl(Duration::from_secs(60)).tag("article:{id}").invalidates(["article:{id}"]);
    Tollgate::builder()
        .identify(user.or(by::client_ip(TrustedProxies::none())))
        .limit(Tiers::default().assign(|head| Some(head.extension::<Authenticated>()?.user()?.plan.as_str())))
        .limit(Limit::per_ip("5/15min").on("POST /login").count(Count::failures()))
        .limit(ConcurrencyLimit::per_user(2).on("GET /export").queue(1, Duration::from_secs(2)))
        .limit(Limit::per_user("60/min").named("messages").on("/ws"))
        .limit(ConcurrencyLimit::per_user(2).named("sockets").on("GET /ws"))
        .cache(Rules::new().route("/articles/{id}", article.same_for_everyone()))
        .build()
}
