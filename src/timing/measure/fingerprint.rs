//! [`fingerprint`]: a normalised SQL statement without its values.
//!
//! | in the statement | in the fingerprint |
//! |---|---|
//! | text, numbers, `TRUE`, `FALSE`, `NULL` (but not in `IS NULL`), parameters (`$1`, `?`, `:name`, `@name`) | `?` |
//! | what stands in `IN (…)`, `VALUES (…), (…)` and `ARRAY[…]`, in any number, unless it is a query | one `?` |
//! | equal parts with values, between `,`, `OR`, `AND`, `WHEN`, `UNION` or `;`, in any number | one of them |
//! | generated names: of savepoints, cursors, prepared statements, channels; what follows `USE`, or `=` after `SET` | `?` |
//! | numbers in names of tables and schemas (`tenant_42.orders_2024_11`) | `N` |
//! | comments | nothing |
//! | keywords | upper case |
//! | white space | one blank between words, none elsewhere |
//! | tokens that are values in one dialect and names in another | `?` |
//! | text whose end depends on the dialect | `…`, and nothing after it |
//!
//! A word in double quotes is a name in the standard, and text in MySQL. It is kept only where it cannot be text:
//! next to a dot, after `FROM` (but not in `TRIM(x FROM y)`), `JOIN`, `INTO`, `UPDATE`, `TABLE`, `SET` and the `AS` of a
//! query, and in the column list of an `INSERT`.
//!
//! One pass over the bytes: linear time, and at most 2 KB of output.

mod keywords;
mod lists;
mod repeated;
mod writer;

use self::writer::{LONGEST, PrintWriter};
use super::sql::Scanner;

/// Returns the statement without its values: statements that differ only in values have the same fingerprint.
///
/// It never contains a value of the statement and may be logged and used as a label. Lists of any length, and numbered
/// tables, schemas, savepoints and cursors have one fingerprint. Other names of tables and columns are kept as written.
/// It is also the form that [`Repeats::allow`](crate::timing::Repeats::allow) accepts.
///
/// Costs about 20 ns per byte of SQL, and one allocation. Follows the lexical rules of SQL:2016, PostgreSQL, SQLite
/// and MySQL; other text gives a fingerprint too.
///
/// ```
/// use tollgate::timing::fingerprint;
///
/// let one = fingerprint("select name from users\n where id in (1, 2, 3) -- the first three");
/// assert_eq!(one, "SELECT name FROM users WHERE id IN (?)");
/// assert_eq!(one, fingerprint("SELECT name FROM users WHERE id IN ($1)"));
/// ```
#[must_use]
pub fn fingerprint(sql: &str) -> String {
    read(sql).0
}

/// Returns the fingerprint, and whether the statement may have parameters.
pub(crate) fn read(sql: &str) -> (String, bool) {
    let mut out = String::with_capacity(sql.len().min(LONGEST));
    let mut writer = PrintWriter::new(&mut out);
    let mut scanner = Scanner::new(sql);
    let mut cut = false;
    while let Some(token) = scanner.next_token() {
        if !writer.push(token, &scanner) {
            cut = true;
            break;
        }
    }
    writer.end();
    // The unread rest may have parameters.
    (out, cut || scanner.parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_differ_only_in_values_are_equal() {
        for (sql, wanted) in [
            ("", ""),
            ("select 1", "SELECT ?"),
            (
                "SELECT * FROM t WHERE a = 'x' AND b=-1.5e+3 AND c = 0xFF;",
                "SELECT * FROM t WHERE a = ? AND b = ? AND c = ?",
            ),
            (
                "select count( * ) from t1 where x is not null and y = NULL",
                "SELECT count(*) FROM t1 WHERE x IS NOT NULL AND y = ?",
            ),
            ("SELECT a FROM t WHERE b IN ($1,$2, $3)", "SELECT a FROM t WHERE b IN (?)"),
            ("insert into t(a, b) values (1,'x'),(2,'y'),(?, ?)", "INSERT INTO t(a, b) VALUES (?)"),
            ("SELECT/* it's 'a' comment */a-- b'\nFROM t", "SELECT a FROM t"),
            ("SELECT $$secret$$, $tag$it's$tag$, E'it\\'s', N'x', X'ff', b'01'", "SELECT ?"),
            (
                "SELECT x::text, y :: int FROM t WHERE id = :id AND n = @n",
                "SELECT x::text, y::int FROM t WHERE id = ? AND n = ?",
            ),
            (
                "SELECT \"u\".\"id\" FROM \"users\" AS \"u\" WHERE \"u\".\"id\" = $1",
                "SELECT \"u\".\"id\" FROM \"users\" AS \"u\" WHERE \"u\".\"id\" = ?",
            ),
            (
                "INSERT INTO \"cake\" (\"id\", \"name\") VALUES (\"secret\", 'x')",
                "INSERT INTO \"cake\"(\"id\", \"name\") VALUES (?)",
            ),
            ("SELECT name FROM users WHERE name = \"secret\"", "SELECT name FROM users WHERE name = ?"),
            ("SELECT `a b` FROM `t`", "SELECT `a b` FROM `t`"),
            ("SELECT a->>'secret', b @> '{}', c || 'x' FROM t", "SELECT a ->> ?, b @> ?, c || ? FROM t"),
            ("SELECT a - 1, a -1, -1 FROM t LIMIT 10 OFFSET 20", "SELECT a - ? FROM t LIMIT ? OFFSET ?"),
            ("SELECT ARRAY[1, 2], x[3] FROM t WHERE ok = TRUE", "SELECT ARRAY [?], x[?] FROM t WHERE ok = ?"),
            ("SELECT DATE '2024-01-01', 'a' 'b'", "SELECT DATE ?"),
            ("BEGIN; COMMIT;", "BEGIN; COMMIT"),
            ("SELECT größe FROM maße", "SELECT größe FROM maße"),
        ] {
            assert_eq!(fingerprint(sql), wanted, "{sql}");
            assert_eq!(fingerprint(wanted), wanted, "a fingerprint is its own");
        }
    }

    #[test]
    fn the_fingerprint_ends_where_dialects_disagree() {
        for sql in [
            "SELECT a WHERE b = 'it\\'s secret'",
            "SELECT a WHERE p = 'C:\\' AND n = 'secret'",
            "SELECT a WHERE b = \"\\\" secret\"",
            "SELECT a /* /* */ WHERE b = 'x */ secret'",
            "SELECT a # it's\n WHERE b = 'secret'",
            "SELECT a WHERE b = q'[it's secret]' AND c = 'x'",
        ] {
            let print = fingerprint(sql);
            assert!(print.starts_with("SELECT a") && !print.contains("secret"), "{sql}: {print}");
            assert!(print.ends_with('…'), "{print}");
        }
    }

    #[test]
    fn no_text_in_double_quotes_is_mistaken_for_a_name() {
        for sql in [
            "SELECT TRIM(LEADING \"x\" FROM \"secret\")",
            "SELECT TRIM(\"secret\" FROM a), SUBSTRING(\"secret\" FROM 2 FOR 3), EXTRACT(YEAR FROM \"secret\") FROM t",
            "SELECT OVERLAY(a PLACING \"secret\" FROM 1), POSITION(\"secret\" IN b)",
            "SELECT a FROM t WHERE b IS DISTINCT FROM \"secret\" OR b IS NOT DISTINCT FROM \"secret\"",
            "SELECT f((SELECT 1), TRIM(BOTH (SELECT a FROM u) FROM \"secret\"))",
            "CREATE USER u IDENTIFIED WITH p AS \"secret\"",
            "CREATE FUNCTION f AS \"secret\"",
            "SET CHARACTER SET \"secret\"",
            "SET NAMES \"secret\"",
            "LOAD DATA INFILE \"secret\" INTO TABLE t FIELDS TERMINATED BY \"secret\"",
            "SELECT a INTO OUTFILE \"secret\" FROM t",
            "SELECT CONVERT(_utf8\"secret\" USING utf8)",
            "SELECT \"\"\"it's \"secret\" here\"\"\"",
            "SELECT x$a$ = 'it $a$ secret'",
            "SELECT a$$secret$$",
            "SELECT 5--'a\n secret'",
            "SELECT a -- c\r 'a\nsecret'",
            "SELECT /*!50000 b = 'a*/ secret' */ a",
            "SELECT a #> it's\n 'secret'",
            "SELECT a ## it's\n 'secret'",
        ] {
            let print = fingerprint(sql);
            assert!(!print.contains("secret"), "{sql}: {print}");
        }
        assert_eq!(
            fingerprint("SELECT a FROM \"t\" WHERE b IN (SELECT c FROM \"u\")"),
            "SELECT a FROM \"t\" WHERE b IN (SELECT c FROM \"u\")"
        );
    }

    /// A fingerprint, and statements that have it.
    type Group = (&'static str, &'static [&'static str]);

    const GROUPS: &[Group] = &[
        (
            "INSERT INTO t(a, b) VALUES (?)",
            &[
                "INSERT INTO t (a, b) VALUES ($1::int, $2)",
                "INSERT INTO t (a, b) VALUES ($1::int, $2), ($3::int, DEFAULT), (now(), (SELECT max(c) FROM u))",
                "insert into t(a, b) values ( 'x' , ARRAY[1, 2]) , (1, coalesce($1, 2))",
            ],
        ),
        ("VALUES ROW (?)", &["VALUES ROW(1, 2)", "VALUES ROW(1, 2), ROW(f(3), 4)"]),
        (
            "INSERT INTO t(a) VALUES (?) ON CONFLICT DO NOTHING",
            &[
                "INSERT INTO t(a) VALUES (1), (2) ON CONFLICT DO NOTHING",
                "INSERT INTO t(a) VALUES (DEFAULT) ON CONFLICT DO NOTHING",
            ],
        ),
        (
            "SELECT a FROM t WHERE b IN (?)",
            &[
                "SELECT a FROM t WHERE b IN ($1::uuid, $2::uuid)",
                "SELECT a FROM t WHERE b IN (UUID_TO_BIN(?), UUID_TO_BIN(?), DATE '2024-01-01')",
                "SELECT a FROM t WHERE b IN (x)",
            ],
        ),
        (
            "SELECT a FROM t WHERE (b, c) IN (?)",
            &["SELECT a FROM t WHERE (b, c) IN ((1, 2))", "SELECT a FROM t WHERE (b, c) IN ((1, 2), (3, f(4)))"],
        ),
        (
            "SELECT a FROM t WHERE b = ANY (ARRAY [?])",
            &["SELECT a FROM t WHERE b = ANY(ARRAY[1])", "SELECT a FROM t WHERE b = ANY(ARRAY[$1::int, f($2)])"],
        ),
        (
            "SELECT a FROM t WHERE b = ? AND (c = ? AND d = ? OR e)",
            &[
                "SELECT a FROM t WHERE b = 1 AND (c = 1 AND d = 2 OR e)",
                "SELECT a FROM t WHERE b = 1 AND (c = 1 AND d = 2 OR c = 3 AND d = 4 OR c = 5 AND d = 6 OR e)",
            ],
        ),
        (
            "DELETE FROM t WHERE (a = ? AND b = ?)",
            &[
                "DELETE FROM t WHERE (a = 1 AND b = 2)",
                "DELETE FROM t WHERE (a = 1 AND b = 2) OR (a = 3 AND b = 4) OR (a = $1 AND b = $2)",
            ],
        ),
        (
            "UPDATE t SET a = CASE id WHEN ? THEN ?::int ELSE a END WHERE id IN (?)",
            &[
                "UPDATE t SET a = CASE id WHEN 1 THEN 2::int ELSE a END WHERE id IN (1)",
                "UPDATE t SET a = CASE id WHEN 1 THEN 2::int WHEN 3 THEN 4::int WHEN 5 THEN 6::int ELSE a END WHERE id IN (1, 3, 5)",
            ],
        ),
        (
            "SELECT a FROM t WHERE b <> ? AND c",
            &["SELECT a FROM t WHERE b <> 1 AND c", "SELECT a FROM t WHERE b <> 1 AND b <> 2 AND b <> 3 AND c"],
        ),
        (
            "SELECT a FROM t JOIN (SELECT ? AS id UNION ALL SELECT ?) AS x ON x.id = t.a",
            &[
                "SELECT a FROM t JOIN (SELECT 1 AS id UNION ALL SELECT 2) AS x ON x.id = t.a",
                "SELECT a FROM t JOIN (SELECT 1 AS id UNION ALL SELECT 2 UNION ALL SELECT 3) AS x ON x.id = t.a",
            ],
        ),
        ("SELECT a FROM t WHERE b BETWEEN ? AND ? AND c", &["SELECT a FROM t WHERE b BETWEEN 1 AND 2 AND c"]),
        ("EXECUTE sN(?)", &["EXECUTE s12(1, 'x')", "execute s345(2)"]),
        ("ALTER SESSION SET CURRENT_SCHEMA = ?", &["ALTER SESSION SET CURRENT_SCHEMA = tenant_7"]),
        ("ALTER ROLE app SET search_path TO ?", &["ALTER ROLE app SET search_path TO tenant_7, public"]),
        (
            "SELECT [id], [user name] FROM [users] WHERE [id] = ?",
            &["SELECT [id], [user name] FROM [users] WHERE [id] = 7"],
        ),
        ("SELECT a FROM t WHERE b IN [?]", &["SELECT a FROM t WHERE b IN [1, 2]", "SELECT a FROM t WHERE b IN ['x']"]),
        ("SELECT f(?::int)", &["SELECT f($1::int)", "SELECT f($1::int, $2::int, $3::int)"]),
        (
            "INSERT INTO t SELECT ? UNION ALL SELECT ?",
            &[
                "INSERT INTO t SELECT 1, 2 UNION ALL SELECT 3, 4",
                "INSERT INTO t SELECT 1, 2 UNION ALL SELECT 3, 4 UNION ALL SELECT 5, 6",
            ],
        ),
        (
            "UPDATE t SET a = ? WHERE id = ?",
            &["UPDATE t SET a = 1 WHERE id = 2", "UPDATE t SET a = 1 WHERE id = 2; UPDATE t SET a = 3 WHERE id = 4;"],
        ),
        ("SAVEPOINT ?", &["SAVEPOINT _sqlx_savepoint_1", "savepoint \"s2\"", "SAVEPOINT `s`", "SAVEPOINT a_b"]),
        ("RELEASE ?", &["RELEASE SAVEPOINT _sqlx_savepoint_1", "release s2"]),
        ("ROLLBACK TO ?", &["ROLLBACK TO SAVEPOINT _sqlx_savepoint_1", "rollback to s2"]),
        ("USE ?", &["USE tenant_7", "use `acme`"]),
        ("LISTEN ?", &["LISTEN user_7", "listen \"user 8\""]),
        ("NOTIFY ?", &["NOTIFY user_7, 'secret'", "NOTIFY user_8"]),
        ("PREPARE ? AS SELECT a FROM t", &["PREPARE p1 AS SELECT a FROM t", "PREPARE \"p2\" AS SELECT a FROM t"]),
        ("DEALLOCATE ?", &["DEALLOCATE p1", "DEALLOCATE PREPARE p2"]),
        ("DECLARE ? CURSOR FOR SELECT a FROM t", &["DECLARE c1 CURSOR FOR SELECT a FROM t"]),
        ("FETCH ?", &["FETCH 100 FROM c1", "FETCH NEXT FROM c2", "fetch c3"]),
        ("CLOSE ?", &["CLOSE c1", "close \"c 2\""]),
        ("SET search_path = ?", &["SET search_path = tenant_7, public", "set search_path = acme"]),
        ("SET LOCAL app.user TO ?", &["SET LOCAL app.user TO 7", "SET LOCAL app.user TO ada"]),
        ("SET ROLE ?", &["SET ROLE ada", "SET ROLE 'ada'"]),
        ("PRAGMA busy_timeout = ?", &["PRAGMA busy_timeout = 5", "PRAGMA busy_timeout = x"]),
        (
            "SELECT a FROM tenant_N.users JOIN tenant_N.orders ON tenant_N.users.id = t1.id",
            &["SELECT a FROM tenant_7.users JOIN tenant_7.orders ON tenant_7.users.id = t1.id"],
        ),
        (
            "SELECT a FROM \"orders_N_N\" WHERE b = ?",
            &["SELECT a FROM \"orders_2024_11\" WHERE b = 1", "SELECT a FROM \"orders_2023_01\" WHERE b = 1"],
        ),
        ("CREATE TABLE tmp_N(a int)", &["CREATE TABLE tmp_8f3a9c1e77(a int)"]),
        ("SELECT a, a FROM t1 WHERE x = y OR x = y", &["SELECT a, a FROM t1 WHERE x = y OR x = y"]),
        (
            "INSERT INTO t(a) VALUES (?) ON DUPLICATE KEY UPDATE a = VALUES (a)",
            &["INSERT INTO t (a) VALUES (1), (2) ON DUPLICATE KEY UPDATE a = VALUES(a)"],
        ),
        ("SELECT n FROM v$session", &["SELECT n FROM v$session"]),
    ];

    #[test]
    fn the_number_of_fingerprints_does_not_grow_with_the_data() {
        for (wanted, statements) in GROUPS {
            for sql in *statements {
                assert_eq!(fingerprint(sql), *wanted, "{sql}");
            }
            assert_eq!(fingerprint(wanted), *wanted, "a fingerprint is its own");
        }
    }

    #[test]
    fn unterminated_text_is_handled() {
        for sql in ["'secret", "\"secret", "/* secret", "-- secret", "$x$ secret", "`secret", "E'secret\\"] {
            assert!(!fingerprint(sql).contains("secret"), "{sql}");
        }
    }

    #[test]
    fn long_statements_are_cut() {
        let print = fingerprint(&format!("SELECT {} FROM t", "größe, ".repeat(10_000)));
        assert!(print.len() <= LONGEST && print.ends_with('…'), "{}", print.len());
    }
}
