//! Words of SQL that a fingerprint writes in upper case.

/// Returns the keyword in upper case.
pub(super) fn keyword(word: &str) -> Option<&'static str> {
    find(&KEYWORDS, word)
}

/// Returns the first word of a statement in upper case.
pub(super) fn statement(word: &str) -> Option<&'static str> {
    find(&STATEMENTS, word)
}

fn find(sorted: &[&'static str], word: &str) -> Option<&'static str> {
    const LONGEST: usize = 12;
    if word.len() > LONGEST {
        return None;
    }
    let mut upper = [0; LONGEST];
    let upper = &mut upper[..word.len()];
    upper.copy_from_slice(word.as_bytes());
    upper.make_ascii_uppercase();
    sorted.binary_search_by(|keyword| keyword.as_bytes().cmp(upper)).ok().map(|found| sorted[found])
}

/// Words that are keywords at the start of a statement only, sorted alphabetically.
#[rustfmt::skip]
const STATEMENTS: [&str; 33] = [
    "ABORT", "ATTACH", "CALL", "CHECKPOINT", "CLOSE", "COPY", "DEALLOCATE", "DECLARE", "DESCRIBE", "DETACH",
    "DISCARD", "EXECUTE", "GRANT", "HANDLER", "KILL", "LISTEN", "LOAD", "LOCK", "MERGE", "MOVE", "NOTIFY", "OPEN",
    "OPTIMIZE", "PREPARE", "REFRESH", "REVOKE", "SAVE", "TRUNCATE", "UNLISTEN", "UNLOCK", "USE", "VACUUM", "XA",
];

/// Keywords anywhere, sorted alphabetically.
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
        assert!(KEYWORDS.is_sorted() && STATEMENTS.is_sorted());
    }
}
