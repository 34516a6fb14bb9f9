//! [`fingerprint`]: a normalised SQL statement without its values.
//!
//! | in the statement | in the fingerprint |
//! |---|---|
//! | text, numbers, `TRUE`, `FALSE`, `NULL` (but not in `IS NULL`), parameters (`$1`, `?`, `:name`, `@name`) | `?` |
//! | lists of these, in `IN (…)` or `VALUES (…), (…)`, of any length | one `?` |
//! | comments | nothing |
//! | keywords | upper case |
//! | white space | one blank between words, none elsewhere |
//! | tokens that are values in one dialect and names in another | `?` |
//! | text whose end depends on the dialect | `…`, and nothing after it |
//!
//! A word in double quotes is a name in the standard, and text in MySQL. It is kept only where it cannot be text:
//! next to a dot, after `FROM`, `JOIN`, `INTO`, `UPDATE`, `TABLE`, `SET` and `AS`, and in the column list of an
//! `INSERT`.
//!
//! One pass over the bytes: linear time, and at most 2 KB of output.

use super::sql::{Scanner, Token};

/// Maximum length of a fingerprint, in bytes.
const LONGEST: usize = 2_048;
/// Marks a truncated fingerprint.
const CUT: &str = "…";

/// Returns the statement without its values: statements that differ only in values have the same fingerprint.
///
/// It never contains a value of the statement and may be logged and used as a label. Names of tables and columns are
/// kept as written. It is also the form that [`Repeats::allow`](crate::timing::Repeats::allow) accepts.
///
/// Costs about 15 ns per byte of SQL, and one allocation. Follows the lexical rules of SQL:2016, PostgreSQL, SQLite
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
    let mut writer = Writer::new(&mut out);
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

/// Kind of the last token in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Keyword,
    Name,
    Value,
    Operator,
    Open,
    Close,
    Comma,
    Dot,
}

struct Writer<'a> {
    out: &'a mut String,
    last: Last,
    /// Whether a name must follow the last keyword.
    names_follow: bool,
    /// Whether the last keyword was `IS`, or `NOT` after it.
    after_is: bool,
    /// Position relative to the column list of an `INSERT INTO name`.
    columns: Columns,
}

/// Progress of an `INSERT` towards its column list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    No,
    AfterInto,
    Inside,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut String) -> Self {
        Self { out, last: Last::Nothing, names_follow: false, after_is: false, columns: Columns::No }
    }

    /// Writes one token; returns false when the output is complete.
    fn push(&mut self, token: Token<'_>, scanner: &Scanner<'_>) -> bool {
        match token {
            Token::Word(word) => self.word(word),
            Token::Quoted(name) => self.quoted(name, scanner),
            Token::Backticks(name) => self.name(name),
            Token::Value => self.value(),
            Token::Punctuation(sign) => self.punctuation(sign),
            Token::Unclear => {
                self.blank(self.last != Last::Nothing);
                self.out.push_str(CUT);
                return false;
            }
        }
        self.out.len() < LONGEST
    }

    fn end(&mut self) {
        self.out.truncate(self.out.trim_end_matches(';').len());
        if self.out.len() >= LONGEST {
            let mut end = LONGEST - CUT.len();
            while !self.out.is_char_boundary(end) {
                end -= 1;
            }
            self.out.truncate(end);
            self.out.push_str(CUT);
        }
    }

    fn word(&mut self, word: &str) {
        match keyword(word) {
            None => self.name(word),
            Some("TRUE" | "FALSE") => self.value(),
            Some("NULL") if !self.after_is => self.value(),
            Some(_) if self.last == Last::Dot => self.name(word),
            Some(keyword) => {
                self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Dot));
                self.out.push_str(keyword);
                self.last = Last::Keyword;
                self.names_follow =
                    matches!(keyword, "FROM" | "JOIN" | "INTO" | "UPDATE" | "TABLE" | "SET" | "AS" | "ONLY");
                self.after_is = keyword == "IS" || (keyword == "NOT" && self.after_is);
                self.columns = if keyword == "INTO" { Columns::AfterInto } else { Columns::No };
            }
        }
    }

    fn name(&mut self, name: &str) {
        self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Dot));
        self.out.push_str(name);
        self.settle(Last::Name);
    }

    /// Writes a word in double quotes: as a name if it cannot be text.
    fn quoted(&mut self, name: &str, scanner: &Scanner<'_>) {
        let certain =
            self.names_follow || self.last == Last::Dot || self.columns == Columns::Inside || scanner.next_is(b'.');
        if certain && plain(&name[1..name.len() - 1]) {
            self.name(name);
        } else {
            self.value();
        }
    }

    fn value(&mut self) {
        // "?, ?" is one "?".
        if self.last == Last::Comma && self.out.ends_with("?,") {
            self.out.truncate(self.out.len() - 1);
        } else if !(self.last == Last::Value && self.out.ends_with('?')) {
            self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Dot));
            self.out.push('?');
        }
        self.settle(Last::Value);
    }

    fn settle(&mut self, last: Last) {
        self.last = last;
        self.names_follow = false;
        self.after_is = false;
    }

    fn punctuation(&mut self, sign: &str) {
        let last = match sign {
            "(" | "[" => {
                self.columns = match (self.columns, self.last) {
                    (Columns::AfterInto, Last::Name) => Columns::Inside,
                    _ => Columns::No,
                };
                self.blank(matches!(self.last, Last::Keyword | Last::Operator | Last::Comma | Last::Value));
                Last::Open
            }
            ")" | "]" => {
                self.columns = Columns::No;
                Last::Close
            }
            "," => Last::Comma,
            "." => Last::Dot,
            ";" => Last::Comma,
            "::" => Last::Dot,
            _ => {
                self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Operator));
                Last::Operator
            }
        };
        self.out.push_str(sign);
        self.settle(last);
        // "(?), (?)" is one "(?)".
        if sign == ")" && self.out.ends_with("(?), (?)") {
            self.out.truncate(self.out.len() - ", (?)".len());
        }
    }

    fn blank(&mut self, wanted: bool) {
        if wanted {
            self.out.push(' ');
        }
    }
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$' | b' '))
}

/// Returns the keyword in upper case.
fn keyword(word: &str) -> Option<&'static str> {
    const LONGEST: usize = 12;
    if word.len() > LONGEST {
        return None;
    }
    let mut upper = [0; LONGEST];
    let upper = &mut upper[..word.len()];
    upper.copy_from_slice(word.as_bytes());
    upper.make_ascii_uppercase();
    KEYWORDS.binary_search_by(|keyword| keyword.as_bytes().cmp(upper)).ok().map(|found| KEYWORDS[found])
}

/// Sorted alphabetically.
#[rustfmt::skip]
const KEYWORDS: [&str; 105] = [
    "ALL", "ALTER", "ANALYZE", "AND", "ANY", "ARRAY", "AS", "ASC", "BEGIN", "BETWEEN", "BY", "CASE", "CAST",
    "COLLATE", "COMMIT", "CONFLICT", "CREATE", "CROSS", "CURRENT", "DEFAULT", "DELETE", "DESC", "DISTINCT", "DO",
    "DROP", "ELSE", "END", "EXCEPT", "EXCLUDED", "EXISTS", "EXPLAIN", "FALSE", "FETCH", "FILTER", "FIRST",
    "FOLLOWING", "FOR", "FROM", "FULL", "GROUP", "HAVING", "ILIKE", "IN", "INDEX", "INNER", "INSERT", "INTERSECT",
    "INTERVAL", "INTO", "IS", "JOIN", "KEY", "LAST", "LATERAL", "LEFT", "LIKE", "LIMIT", "LOCKED", "NATURAL",
    "NEXT", "NOT", "NOTHING", "NULL", "NULLS", "OF", "OFFSET", "ON", "ONLY", "OR", "ORDER", "OUTER", "OVER",
    "PARTITION", "PRAGMA", "PRECEDING", "RECURSIVE", "RELEASE", "REPLACE", "RETURNING", "RIGHT", "ROLLBACK", "ROW",
    "ROWS", "SAVEPOINT", "SELECT", "SET", "SHARE", "SHOW", "SIMILAR", "SKIP", "SOME", "START", "TABLE", "THEN",
    "TO", "TRUE", "UNION", "UNIQUE", "UPDATE", "USING", "VALUES", "VIEW", "WHEN", "WHERE", "WITH",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keywords_are_in_order() {
        assert!(KEYWORDS.is_sorted());
    }

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
            ("SELECT/* it's 'a' comment */a--b'\nFROM t", "SELECT a FROM t"),
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
            ("SELECT a - 1, a -1, -1 FROM t LIMIT 10 OFFSET 20", "SELECT a - ?, a - ? FROM t LIMIT ? OFFSET ?"),
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
