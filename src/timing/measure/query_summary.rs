//! [`of`]: the summary of a statement: its operations and their tables, such as `SELECT users orders`.
//!
//! OpenTelemetry's `db.query.summary`: of low cardinality, and without a value or a condition.
//! <https://opentelemetry.io/docs/specs/semconv/database/database-spans/>

/// Maximum length in bytes.
const LONGEST: usize = 255;
const OPERATIONS: [&str; 6] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"];

/// Returns the summary of a fingerprint.
pub(crate) fn of(print: &str) -> String {
    let mut reader = SummaryReader::default();
    words(print).for_each(|word| reader.read(word));
    if reader.parts.is_empty() {
        reader.parts.extend(words(print).find(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())));
    }
    let mut summary = String::new();
    for part in reader.parts {
        if summary.len() + part.len() + 1 > LONGEST {
            break;
        }
        if !summary.is_empty() {
            summary.push(' ');
        }
        summary.push_str(part);
    }
    summary
}

/// Splits at spaces, and separates parentheses and commas.
fn words(print: &str) -> impl Iterator<Item = &str> {
    let parts = print.split_ascii_whitespace();
    parts.flat_map(|part| part.split_inclusive(['(', ')', ',', ';'])).flat_map(|part| {
        let end = part.strip_suffix(['(', ')', ',', ';']).map_or(part.len(), str::len);
        let (word, sign) = part.split_at(end);
        [word, sign].into_iter().filter(|word| !word.is_empty())
    })
}

/// What the next word may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NextWord {
    #[default]
    Any,
    /// A table.
    Table,
    /// A comma before another table, or an alias.
    AfterTable,
}

#[derive(Default)]
struct SummaryReader<'a> {
    parts: Vec<&'a str>,
    next: NextWord,
    last: &'a str,
    /// Whether each open parenthesis encloses a statement: `EXTRACT(YEAR FROM created)` names no table.
    statements: Vec<bool>,
}

impl<'a> SummaryReader<'a> {
    fn read(&mut self, word: &'a str) {
        match word {
            "(" => {
                self.statements.push(false);
                self.next = NextWord::Any;
            }
            ")" => {
                self.statements.pop();
                self.next = NextWord::Any;
            }
            "," if self.next == NextWord::AfterTable => self.next = NextWord::Table,
            _ if self.next == NextWord::Table && matches!(word, "ONLY" | "LATERAL") => {}
            _ if self.next == NextWord::Table && !OPERATIONS.contains(&word) => {
                if self.parts.last() != Some(&word) {
                    self.parts.push(word);
                }
                self.next = NextWord::AfterTable;
            }
            _ => self.keyword(word),
        }
        self.last = word;
    }

    fn keyword(&mut self, word: &'a str) {
        let clause = matches!(self.last, "FOR" | "DO" | "ON" | "KEY" | "THEN");
        if OPERATIONS.contains(&word) && !clause {
            if let Some(inner) = self.statements.last_mut() {
                *inner = true;
            }
            self.parts.push(word);
            self.next = if word == "UPDATE" { NextWord::Table } else { NextWord::Any };
            return;
        }
        let inside = self.statements.last().is_none_or(|inside| *inside);
        match word {
            "FROM" if inside && self.last != "DISTINCT" => self.next = NextWord::Table,
            "INTO" | "JOIN" if inside => self.next = NextWord::Table,
            "WHERE" | "SET" | "ON" | "USING" | "VALUES" | "GROUP" | "ORDER" | "LIMIT" => self.next = NextWord::Any,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::measure::fingerprint::fingerprint;

    #[test]
    fn operations_and_tables_are_kept_and_nothing_else() {
        for (sql, summary) in [
            ("SELECT title FROM books WHERE author = 'x' ORDER BY title", "SELECT books"),
            ("select * from public.users u join orders o on o.user = u.id, stock", "SELECT public.users orders"),
            ("SELECT a FROM t, u AS v, w WHERE b IN (SELECT c FROM d)", "SELECT t u w SELECT d"),
            ("INSERT INTO log (a, b) VALUES (1, 2) ON CONFLICT DO UPDATE SET a = 1", "INSERT log"),
            ("INSERT INTO a SELECT * FROM b", "INSERT a SELECT b"),
            ("UPDATE ONLY accounts SET n = 1 FROM rates WHERE x = 2", "UPDATE accounts rates"),
            ("DELETE FROM sessions WHERE id = 7", "DELETE sessions"),
            ("SELECT a FROM t WHERE b = 1 FOR UPDATE", "SELECT t"),
            ("SELECT EXTRACT(YEAR FROM created) FROM t WHERE a IS DISTINCT FROM b", "SELECT t"),
            ("SELECT 1", "SELECT"),
            ("BEGIN", "BEGIN"),
            ("", ""),
        ] {
            assert_eq!(of(&fingerprint(sql)), summary, "{sql}");
        }
        let wide = (0..200).fold("SELECT a FROM t".to_owned(), |sql, n| sql + &format!(" JOIN table_{n} ON x"));
        assert!(of(&fingerprint(&wide)).len() <= LONGEST);
    }
}
