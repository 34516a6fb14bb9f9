//! [`PrintWriter`]: the tokens of a statement, written without values.

use super::keywords::{keyword, statement};
use super::lists::{Fate, Last, Lists};
use super::repeated::{Run, Separator};
use crate::timing::measure::sql::{Scanner, Token};

/// Maximum length of a fingerprint, in bytes.
pub(super) const LONGEST: usize = 2_048;
/// Marks a truncated fingerprint.
const CUT: &str = "…";
/// Nested parentheses whose repeated parts are found.
const NESTED: usize = 16;

/// Progress of an `INSERT` towards its column list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    No,
    AfterInto,
    Inside,
}

/// Form of the statement, by its first word, and the progress within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// No word yet.
    Start,
    /// `SELECT` and what else has aliases.
    Query,
    /// `CREATE`, `GRANT` and others, whose `AS` may precede a text.
    Other,
    /// `PREPARE` or `DECLARE`: a generated name follows.
    Generated,
    /// `SET` or `PRAGMA`, up to the value.
    Set,
    /// `ALTER`, which may set a value.
    Alter,
    /// `ROLLBACK`, up to the name of a savepoint.
    Rollback,
    /// Only names and values follow, up to the end of the statement; one `?` stands for them.
    Rest,
    /// The `?` is written.
    Written,
}

pub(super) struct PrintWriter<'a> {
    out: &'a mut String,
    last: Last,
    /// Whether a name must follow the last keyword.
    names_follow: bool,
    /// Whether it is a table's.
    tables_follow: bool,
    /// Whether the last keyword was `IS`, or `NOT` after it.
    after_is: bool,
    /// Whether the last word was `DISTINCT`, or `CHARACTER`: `FROM` and `SET` after them begin no clause.
    joined: bool,
    /// Whether the last name is that of a table, or of its schema.
    in_clause: bool,
    /// Position relative to the column list of an `INSERT INTO name`.
    columns: Columns,
    form: Form,
    lists: Lists,
    /// One bit for each open parenthesis, the innermost lowest: whether it holds a query, with a bit for the statement.
    queries: u64,
    depth: usize,
    runs: [Run; NESTED],
    /// Parts between `AND`, within those between other separators.
    conjunctions: [Run; NESTED],
    selects: [Run; NESTED],
    statements: Run,
}

impl<'a> PrintWriter<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self {
            out,
            last: Last::Nothing,
            names_follow: false,
            tables_follow: false,
            after_is: false,
            joined: false,
            in_clause: false,
            columns: Columns::No,
            form: Form::Start,
            lists: Lists::default(),
            queries: 1,
            depth: 0,
            runs: [Run::default(); NESTED],
            conjunctions: [Run::default(); NESTED],
            selects: [Run::default(); NESTED],
            statements: Run::default(),
        }
    }

    /// Writes one token; returns false when the output is complete.
    pub(super) fn push(&mut self, token: Token<'_>, scanner: &Scanner<'_>) -> bool {
        if token == Token::Unclear {
            self.blank(self.last != Last::Nothing);
            self.out.push_str(CUT);
            return false;
        }
        if matches!(self.form, Form::Rest | Form::Written) && token != Token::Punctuation(";") {
            if self.form == Form::Rest {
                self.value();
                self.form = Form::Written;
            }
            return true;
        }
        match self.lists.next(token, self.last) {
            Fate::Write => self.write(token, scanner),
            Fate::Drop => {}
            Fate::Comma => {
                self.punctuation(",");
                self.write(token, scanner);
            }
            Fate::Close(sign) => {
                self.out.push('?');
                self.punctuation(sign);
            }
            Fate::Open(sign) => self.punctuation(sign),
        }
        self.out.len() < LONGEST
    }

    pub(super) fn end(&mut self) {
        self.out.truncate(self.out.trim_end_matches(';').len());
        self.close_run();
        self.close_selects();
        self.statements.close(self.out);
        if self.out.len() >= LONGEST {
            let mut end = LONGEST - CUT.len();
            while !self.out.is_char_boundary(end) {
                end -= 1;
            }
            self.out.truncate(end);
            self.out.push_str(CUT);
        }
    }

    fn write(&mut self, token: Token<'_>, scanner: &Scanner<'_>) {
        match token {
            Token::Word(word) => self.word(word, scanner),
            Token::Quoted(name) => self.quoted(name, scanner),
            Token::Backticks(name) => self.name(name, scanner),
            Token::Value => self.value(),
            Token::Punctuation(sign) => self.punctuation(sign),
            Token::Unclear => {}
        }
    }

    fn word(&mut self, word: &str, scanner: &Scanner<'_>) {
        let first = self.form == Form::Start;
        let known = keyword(word).or_else(|| if first { statement(word) } else { None });
        match known {
            None => {
                self.name(word, scanner);
                self.plain_word(word);
            }
            Some("TRUE" | "FALSE") => self.value(),
            Some("NULL") if !self.after_is => self.value(),
            Some(_) if self.last == Last::Dot => self.name(word, scanner),
            Some(keyword) => self.keyword(keyword),
        }
        if first {
            self.form = Form::of(known.unwrap_or_default());
        }
    }

    fn keyword(&mut self, keyword: &'static str) {
        self.bound(keyword);
        if self.last == Last::Open && matches!(keyword, "SELECT" | "WITH" | "VALUES" | "TABLE" | "DELETE" | "UPDATE") {
            self.queries |= 1;
        }
        self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Dot));
        self.out.push_str(keyword);
        self.last = Last::Keyword;
        self.names_follow = match keyword {
            // Not those of `TRIM(x FROM y)` and `IS DISTINCT FROM`.
            "FROM" => self.queries & 1 == 1 && !self.joined,
            "SET" => !self.joined,
            "AS" => self.form == Form::Query,
            "ONLY" => self.names_follow,
            // A prepared statement, whose name may be numbered.
            "EXECUTE" => true,
            _ => matches!(keyword, "JOIN" | "INTO" | "UPDATE" | "TABLE"),
        };
        self.tables_follow = self.names_follow && !matches!(keyword, "SET" | "AS");
        self.joined = keyword == "DISTINCT";
        self.after_is = keyword == "IS" || (keyword == "NOT" && self.after_is);
        self.columns = if keyword == "INTO" { Columns::AfterInto } else { Columns::No };
        self.lists.after(keyword);
        match (self.form, keyword) {
            (Form::Set | Form::Rollback, "TO") => self.form = Form::Rest,
            (Form::Set, "SET") => self.form = Form::Rest,
            (Form::Alter, "SET") if self.depth == 0 => self.form = Form::Set,
            _ => {}
        }
        self.after_separator(keyword);
    }

    /// Looks at a word that is no keyword, after it is written.
    fn plain_word(&mut self, word: &str) {
        let is = |words: &[&str]| words.iter().any(|other| other.eq_ignore_ascii_case(word));
        self.joined = is(&["CHARACTER", "CHAR"]);
        if self.form == Form::Set
            && self.last != Last::Dot
            && is(&["ROLE", "AUTHORIZATION", "NAMES", "SCHEMA", "CATALOG", "CONSTRAINTS", "CHARSET", "ZONE"])
        {
            self.form = Form::Rest;
        }
    }

    fn name(&mut self, name: &str, scanner: &Scanner<'_>) {
        if self.form == Form::Generated {
            return self.value();
        }
        self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Dot));
        // Tables and their schemas may be numbered: one for each tenant, or for each month.
        let clause = self.tables_follow;
        if clause || scanner.next_is(b'.') {
            push_without_numbers(self.out, name);
        } else {
            self.out.push_str(name);
        }
        self.settle(Last::Name);
        self.in_clause = clause;
    }

    /// Writes a word in double quotes: as a name if it cannot be text.
    fn quoted(&mut self, name: &str, scanner: &Scanner<'_>) {
        let certain =
            self.names_follow || self.last == Last::Dot || self.columns == Columns::Inside || scanner.next_is(b'.');
        if certain && plain(&name[1..name.len() - 1]) {
            self.name(name, scanner);
        } else {
            self.value();
        }
    }

    fn value(&mut self) {
        if self.form == Form::Generated {
            self.form = Form::Other;
        }
        // "x ?, ?" is "x ?".
        if self.last == Last::Comma && self.out.ends_with("?,") {
            self.out.truncate(self.out.len() - 1);
            if let Some(run) = self.runs.get_mut(self.depth) {
                run.rejoin();
            }
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
        self.joined = false;
        self.tables_follow = false;
        self.in_clause = false;
    }

    fn punctuation(&mut self, sign: &str) {
        match sign {
            "(" | "[" => self.open(),
            ")" | "]" => self.close(),
            ";" => return self.semicolon(),
            "," => {
                self.separate(Separator::Comma);
                self.out.push(',');
                self.open_part();
                return self.settle(Last::Comma);
            }
            "." | "::" => {}
            _ => self.blank(!matches!(self.last, Last::Nothing | Last::Open | Last::Operator)),
        }
        // A schema is followed by its table.
        let follow = sign == "." && self.in_clause;
        self.out.push_str(sign);
        if matches!(sign, "(" | "[") {
            self.open_part();
            if let Some(run) = self.selects.get_mut(self.depth) {
                run.restart(self.out);
            }
        }
        self.settle(match sign {
            "(" | "[" => Last::Open,
            ")" | "]" => Last::Close,
            "." | "::" => Last::Dot,
            _ => Last::Operator,
        });
        (self.names_follow, self.tables_follow) = (follow, follow);
        if self.form == Form::Set && matches!(sign, "=" | ":=") {
            self.form = Form::Rest;
        }
    }

    fn open(&mut self) {
        self.columns = match (self.columns, self.last) {
            (Columns::AfterInto, Last::Name) => Columns::Inside,
            _ => Columns::No,
        };
        self.blank(matches!(self.last, Last::Keyword | Last::Operator | Last::Comma | Last::Value));
        self.queries <<= 1;
        self.depth += 1;
        if self.depth < NESTED {
            self.runs[self.depth] = Run::default();
            self.conjunctions[self.depth] = Run::default();
        }
    }

    fn close(&mut self) {
        self.columns = Columns::No;
        self.close_run();
        self.close_selects();
        self.queries >>= 1;
        self.depth = self.depth.saturating_sub(1);
    }

    fn semicolon(&mut self) {
        self.close_run();
        self.close_selects();
        self.statements.separate(self.out, Separator::Semicolon);
        self.out.push(';');
        self.statements.open(self.out);
        self.selects[0].restart(self.out);
        (self.queries, self.depth, self.form, self.columns) = (1, 0, Form::Start, Columns::No);
        self.restart_run();
        self.settle(Last::Comma);
    }

    /// Ends what a keyword ends, before it is written.
    fn bound(&mut self, keyword: &str) {
        match keyword {
            "OR" => self.separate(Separator::Or),
            "WHEN" => self.separate(Separator::When),
            "AND" => {
                if let Some(run) = self.conjunctions.get_mut(self.depth) {
                    run.separate(self.out, Separator::And);
                }
            }
            "UNION" | "INTERSECT" | "EXCEPT" => {
                self.close_run();
                if let Some(run) = self.selects.get_mut(self.depth) {
                    run.separate(self.out, Separator::SetOperator);
                }
            }
            _ if inside_an_expression(keyword) => {}
            _ => self.close_run(),
        }
    }

    /// Begins what a keyword begins, after it is written.
    fn after_separator(&mut self, keyword: &str) {
        match keyword {
            "OR" | "WHEN" => self.open_part(),
            "AND" => {
                if let Some(run) = self.conjunctions.get_mut(self.depth) {
                    run.open(self.out);
                }
            }
            "UNION" | "INTERSECT" | "EXCEPT" => {
                if let Some(run) = self.selects.get_mut(self.depth) {
                    run.open(self.out);
                }
            }
            _ if inside_an_expression(keyword) => {}
            _ => self.restart_run(),
        }
    }

    fn separate(&mut self, by: Separator) {
        if self.depth < NESTED {
            self.conjunctions[self.depth].close(self.out);
            self.runs[self.depth].separate(self.out, by);
        }
    }

    fn open_part(&mut self) {
        if self.depth < NESTED {
            self.runs[self.depth].open(self.out);
            self.conjunctions[self.depth].restart(self.out);
        }
    }

    fn close_run(&mut self) {
        if self.depth < NESTED {
            self.conjunctions[self.depth].close(self.out);
            self.runs[self.depth].close(self.out);
        }
    }

    fn restart_run(&mut self) {
        if self.depth < NESTED {
            self.runs[self.depth].restart(self.out);
            self.conjunctions[self.depth].restart(self.out);
        }
    }

    fn close_selects(&mut self) {
        if let Some(run) = self.selects.get_mut(self.depth) {
            run.close(self.out);
        }
    }

    fn blank(&mut self, wanted: bool) {
        if wanted {
            self.out.push(' ');
        }
    }
}

impl Form {
    /// Returns the form of a statement by its first word.
    fn of(first: &str) -> Self {
        match first {
            "SELECT" | "WITH" | "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "MERGE" | "VALUES" | "EXPLAIN" => {
                Self::Query
            }
            "PREPARE" | "DECLARE" => Self::Generated,
            "SET" | "PRAGMA" => Self::Set,
            "ALTER" => Self::Alter,
            "ROLLBACK" => Self::Rollback,
            "SAVEPOINT" | "SAVE" | "RELEASE" | "USE" | "LISTEN" | "UNLISTEN" | "NOTIFY" | "DEALLOCATE" | "FETCH"
            | "MOVE" | "OPEN" | "CLOSE" | "XA" | "KILL" | "ATTACH" | "DETACH" => Self::Rest,
            _ => Self::Other,
        }
    }
}

/// Returns whether a keyword is part of an expression; others begin a clause.
#[rustfmt::skip]
fn inside_an_expression(keyword: &str) -> bool {
    matches!(
        keyword,
        "AND" | "NOT" | "IS" | "NULL" | "LIKE" | "ILIKE" | "SIMILAR" | "TO" | "IN" | "BETWEEN" | "ANY" | "ALL" | "SOME"
            | "EXISTS" | "CASE" | "THEN" | "CAST" | "AS" | "INTERVAL" | "COLLATE" | "ARRAY" | "ROW" | "DISTINCT" | "ASC"
            | "DESC" | "NULLS" | "FIRST" | "LAST" | "DEFAULT" | "OVER" | "PARTITION" | "BY" | "CURRENT"
    )
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$' | b' '))
}

/// Writes a name with `N` for its numbers: two digits or more, digits after `_` or `-`, and long hexadecimal parts.
fn push_without_numbers(out: &mut String, name: &str) {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let begins = at > 0 && !bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] < 0x80;
        let hexadecimal = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let ends = rest.get(hexadecimal).is_none_or(|b| !b.is_ascii_alphanumeric() && *b < 0x80);
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let length = if begins && ends && hexadecimal >= 8 && rest[..hexadecimal].iter().any(u8::is_ascii_digit) {
            hexadecimal
        } else if digits >= 2 || digits == 1 && begins {
            digits
        } else {
            0
        };
        if length > 0 {
            out.push('N');
            at += length;
        } else {
            let whole = (at + 1..=bytes.len()).find(|end| name.is_char_boundary(*end)).unwrap_or(bytes.len());
            out.push_str(&name[at..whole]);
            at = whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_left_out() {
        for (name, wanted) in [
            ("t1", "t1"),
            ("oauth2_tokens", "oauth2_tokens"),
            ("tenant_7", "tenant_N"),
            ("tenant42", "tenantN"),
            ("orders_2024_11", "orders_N_N"),
            ("t_9f86d081884c", "t_N"),
            ("t_facade_decade", "t_facade_decade"),
            ("größe_1", "größe_N"),
            ("\"tenant_7\"", "\"tenant_N\""),
            ("tenant_N", "tenant_N"),
        ] {
            let mut out = String::new();
            push_without_numbers(&mut out, name);
            assert_eq!(out, wanted);
        }
    }
}
