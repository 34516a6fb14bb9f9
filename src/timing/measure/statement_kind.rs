//! [`StatementKind`]: what a repeated statement does, by its fingerprint. The advice follows from it.

/// Effect of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatementKind {
    /// Only reads: its result can be kept, or loaded for many rows at once.
    Read,
    /// Reads and locks rows: it can be made for many rows at once, but its repetition is no duplicate.
    LockingRead,
    /// Writes rows: it can be made for many rows at once.
    Write,
    /// Begins or ends a transaction or a part of one.
    Transaction,
    /// Anything else: repeating it may be its purpose.
    Other,
}

/// Functions that have an effect, or another result each time.
const VOLATILE: [&str; 22] = [
    "nextval",
    "setval",
    "set_config",
    "pg_notify",
    "pg_sleep",
    "pg_advisory_",
    "pg_try_advisory_",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_logical_emit_message",
    "last_insert_id",
    "last_insert_rowid",
    "get_lock",
    "release_lock",
    "sleep",
    "random",
    "rand",
    "gen_random_uuid",
    "uuid",
    "uuid_generate_",
    "lo_",
    "dblink",
];

impl StatementKind {
    /// Returns the effect of a fingerprint.
    pub(crate) fn of(print: &str) -> Self {
        let print = print.trim_start_matches(['(', ' ']);
        let first = print.split([' ', ';', '(']).next().unwrap_or_default();
        match first {
            "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "REPLACE" => Self::Write,
            "SELECT" => Self::of_query(print),
            "WITH"
                if has_word(print, &["INSERT", "DELETE", "MERGE"]) || print.contains(" UPDATE ") && !locks(print) =>
            {
                Self::Write
            }
            "WITH" => Self::of_query(print),
            "TABLE" | "VALUES" | "SHOW" | "DESCRIBE" => Self::Read,
            _ if controls_a_transaction(first) => Self::Transaction,
            _ => Self::Other,
        }
    }

    fn of_query(print: &str) -> Self {
        let calls = || print.contains('(') && !has_word(print, &["FROM"]);
        if has_word(print, &["SKIP", "INTO"])
            || print.contains("NEXT value")
            || print.contains("NEXT VALUE")
            || volatile(print)
            || calls()
        {
            Self::Other
        } else if locks(print) || print.ends_with('…') {
            Self::LockingRead
        } else {
            Self::Read
        }
    }
}

/// Returns whether a statement with this first word, in upper case, begins or ends a transaction or a part of one.
pub(super) fn controls_a_transaction(first: &str) -> bool {
    ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "SAVE"].contains(&first)
}

fn locks(print: &str) -> bool {
    [" FOR UPDATE", " FOR SHARE", " KEY UPDATE", " KEY SHARE", " IN SHARE"].iter().any(|lock| print.contains(lock))
}

/// Returns whether one of these keywords occurs.
fn has_word(print: &str, keywords: &[&str]) -> bool {
    print.split([' ', '(', ')', ',']).any(|word| keywords.contains(&word))
}

/// Returns whether a function is called whose result differs, or that has an effect.
fn volatile(print: &str) -> bool {
    let called = |part: &str| {
        let name = part.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
        let is = |volatile: &str| {
            let exact = !volatile.ends_with('_');
            name.get(..volatile.len()).is_some_and(|start| start.eq_ignore_ascii_case(volatile))
                && (!exact || name.len() == volatile.len() || volatile == "dblink")
        };
        !name.is_empty() && VOLATILE.iter().any(|volatile| is(volatile))
    };
    let mut parts = print.split('(');
    let last = parts.next_back();
    last.is_some() && parts.any(called) || has_sequence(print)
}

/// Returns whether Oracle's `sequence.NEXTVAL` occurs.
fn has_sequence(print: &str) -> bool {
    print.split('.').skip(1).any(|part| part.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("nextval")))
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::fingerprint;
    use super::StatementKind::{LockingRead, Other, Read, Transaction, Write};
    use super::*;

    #[test]
    fn statements_are_told_apart_by_their_effect() {
        for (sql, wanted) in [
            ("select a from t where b = 1", Read),
            ("(select a from t) union (select b from u)", Read),
            ("with c as (select a from t) select * from c", Read),
            ("select max(a), lower(b), count(*) from t", Read),
            ("select skipped from t", Read),
            ("values (1)", Read),
            ("table t", Read),
            ("select a from t where b = 1 for update", LockingRead),
            ("select a from t lock in share mode", LockingRead),
            ("with c as (select a from t for no key update) select * from c", LockingRead),
            ("select a from t where b = 1 for update skip locked limit 1", Other),
            ("select nextval('ids')", Other),
            ("select a, public.nextval('ids') from t", Other),
            ("select ids.nextval from dual", Other),
            ("select next value for ids", Other),
            ("select pg_advisory_lock(1) from t", Other),
            ("select random(), a from t", Other),
            ("select do_something($1)", Other),
            ("select a into b from t", Other),
            ("insert into t values (1)", Write),
            ("replace into t values (1)", Write),
            ("merge into t using u on a = b when matched then delete", Write),
            ("with moved as (delete from t returning *) insert into u select * from moved", Write),
            ("with c as (select 1) update t set a = 1", Write),
            ("truncate t", Other),
            ("copy t from stdin", Other),
            ("call p(1)", Other),
            ("notify c", Other),
            ("listen c", Other),
            ("lock table t", Other),
            ("set a = 1", Other),
            ("pragma a", Other),
            ("explain select 1", Other),
            ("create table t (a int)", Other),
            ("begin", Transaction),
            ("start transaction", Transaction),
            ("commit;", Transaction),
            ("savepoint s1", Transaction),
            ("rollback to s1", Transaction),
        ] {
            assert_eq!(StatementKind::of(&fingerprint(sql)), wanted, "{sql}");
        }
    }
}
