//! Triggers that invalidate tags when rows of a table change.

use super::connect::Link;
use super::settings::Postgres;
use crate::base::error::Error;

impl Postgres {
    /// Invalidates tags whenever rows of a table are inserted, updated or deleted: installs triggers that write to the outbox in
    /// the same transaction, once per statement. A column in braces stands for its value in each row, before and after the
    /// change: `article:{id}`. Call it again to change the tags.
    ///
    /// `TRUNCATE` invalidates only tags without columns.
    ///
    /// # Errors
    /// If a tag is malformed, the server is unavailable, or the role lacks a privilege: it must own Tollgate's tables, and may
    /// `CREATE` in their schema and `TRIGGER` on the watched table. [`watch_sql`](Self::watch_sql) needs less: see
    /// [grants](crate::store::postgres#grants).
    ///
    /// # Examples
    /// ```no_run
    /// use tollgate::store::postgres::Postgres;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tollgate::Error> {
    /// let postgres = Postgres::new("postgres://owner@127.0.0.1/app")?;
    /// postgres.watch("articles", ["articles", "article:{id}"]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn watch(&self, table: &str, tags: impl IntoIterator<Item: AsRef<str>>) -> Result<(), Error> {
        let statements = self.watch_sql(table, tags)?;
        let link = Link::open(&self.address, None).await?;
        link.batch(&self.sql()).await?;
        link.batch(&statements).await
    }

    /// Returns the statements of [`watch`](Self::watch), for a migration tool of your own.
    ///
    /// # Errors
    /// If a tag is malformed.
    ///
    /// # Examples
    /// ```
    /// use tollgate::store::postgres::Postgres;
    ///
    /// let postgres = Postgres::new("postgres://127.0.0.1")?;
    /// assert!(postgres.watch_sql("shop.articles", ["article:{id}"])?.contains(r#"ON "shop"."articles""#));
    /// assert!(postgres.watch_sql("articles", ["article:{id"]).is_err());
    /// # Ok::<(), tollgate::Error>(())
    /// ```
    pub fn watch_sql(&self, table: &str, tags: impl IntoIterator<Item: AsRef<str>>) -> Result<String, Error> {
        self.check()?;
        let tags = tags.into_iter().map(|tag| Template::parse(tag.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if tags.is_empty() || table.is_empty() {
            return Err(Error::config(format!("postgres watch of table {table:?}: name a table and at least one tag")));
        }
        let schema = &self.schema;
        let number = crc32fast::hash(table.as_bytes());
        let table = table.split('.').map(identifier).collect::<Vec<_>>().join(".");
        let values =
            |tags: &mut dyn Iterator<Item = &Template>| tags.map(|tag| tag.expression(schema)).collect::<Vec<_>>();
        let each = values(&mut tags.iter()).join("), (");
        let constant = values(&mut tags.iter().filter(|tag| tag.is_constant())).join("), (");
        let inserts = |tags: &str, from: &str| match tags {
            "" => "NULL;".to_owned(),
            tags => format!(
                "INSERT INTO {schema}.tollgate_outbox (tag)
  SELECT DISTINCT tags.tag FROM {from} CROSS JOIN LATERAL (VALUES ({tags})) AS tags (tag)
  WHERE length(tags.tag) BETWEEN 1 AND 256;"
            ),
        };
        let both = "(SELECT * FROM before UNION ALL SELECT * FROM after) AS changed";
        let mut out = String::new();
        for (event, tables, body) in [
            ("insert", "REFERENCING NEW TABLE AS changed", inserts(&each, "changed")),
            ("update", "REFERENCING OLD TABLE AS before NEW TABLE AS after", inserts(&each, both)),
            ("delete", "REFERENCING OLD TABLE AS changed", inserts(&each, "changed")),
            ("truncate", "", inserts(&constant, "(VALUES (1)) AS changed")),
        ] {
            out += &format!(
                "CREATE OR REPLACE FUNCTION {schema}.tollgate_watch_{number:08x}_{event}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $watch$
BEGIN
  {body}
  RETURN NULL;
END
$watch$;
CREATE OR REPLACE TRIGGER tollgate_watch_{event} AFTER {event} ON {table}
{tables} FOR EACH STATEMENT EXECUTE FUNCTION {schema}.tollgate_watch_{number:08x}_{event}();\n"
            );
        }
        Ok(out)
    }
}

/// Tag with columns in braces.
struct Template(Vec<TagPart>);

enum TagPart {
    Text(String),
    Column(String),
}

impl Template {
    fn parse(tag: &str) -> Result<Self, Error> {
        let malformed = || {
            Error::config(format!(
                "invalid tag {tag:?}; use visible ASCII characters without a comma, and columns in braces"
            ))
        };
        let (mut parts, mut rest) = (Vec::new(), tag);
        while let Some((text, behind)) = rest.split_once('{') {
            let (column, behind) = behind.split_once('}').ok_or_else(malformed)?;
            if column.is_empty() || column.contains(['{', '$']) {
                return Err(malformed());
            }
            parts.extend([TagPart::Text(text.to_owned()), TagPart::Column(column.to_owned())]);
            rest = behind;
        }
        parts.push(TagPart::Text(rest.to_owned()));
        let visible = |b: u8| b.is_ascii_graphic() && !b",}$".contains(&b);
        let texts = parts.iter().filter_map(|part| match part {
            TagPart::Text(text) => Some(text),
            TagPart::Column(_) => None,
        });
        match !tag.is_empty() && texts.into_iter().all(|text| text.bytes().all(visible)) {
            true => Ok(Self(parts)),
            false => Err(malformed()),
        }
    }

    fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, TagPart::Text(_)))
    }

    /// Returns the expression of the tag for a row of `changed`; null if a column is.
    fn expression(&self, schema: &str) -> String {
        let part = |part: &TagPart| match part {
            TagPart::Text(text) => format!("'{}'", text.replace('\'', "''")),
            TagPart::Column(column) => format!("{schema}.tollgate_encode(changed.{}::text)", identifier(column)),
        };
        self.0.iter().map(part).collect::<Vec<_>>().join(" || ")
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_expressions_and_malformed_ones_errors() {
        for (tag, expression) in [
            ("articles", "'articles'"),
            ("it's", "'it''s'"),
            ("article:{id}", "'article:' || s.tollgate_encode(changed.\"id\"::text) || ''"),
            (
                "{a}:{b\"c}",
                "'' || s.tollgate_encode(changed.\"a\"::text) || ':' || s.tollgate_encode(changed.\"b\"\"c\"::text) || ''",
            ),
        ] {
            assert_eq!(Template::parse(tag).expect("a tag").expression("s"), expression);
        }
        for tag in ["", "two words", "a,b", "a{", "a}", "a{}", "a{b{c}", "$watch$", "{$watch$}", "é"] {
            assert!(Template::parse(tag).is_err(), "{tag}");
        }
    }
}
