//! [`Lists`]: the lists of values in a statement, of which one `?` is written.
//!
//! The elements of `VALUES (…)`, `IN (…)` and `ARRAY[…]` are data in every form: with casts, functions, `DEFAULT` or
//! sub-lists. Only a query in `IN (SELECT …)` is not.

use crate::timing::measure::sql::Token;

/// Kind of the last token in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
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

/// Treatment of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate<'a> {
    Write,
    Drop,
    /// Written, after a comma that was held back.
    Comma,
    /// Begins a list.
    Open(&'a str),
    /// Ends a list.
    Close(&'a str),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    None,
    /// After `VALUES`.
    Values,
    /// After `IN`.
    In,
    /// After `IN (`, before the first token.
    Undecided,
    /// After `ARRAY`.
    Array,
    /// After `[` where a value may stand: a name in SQL Server and SQLite, an array elsewhere.
    Bracket,
    /// After a row of `VALUES`.
    AfterRow,
    /// After a row and its comma.
    AfterComma,
}

#[derive(Debug, Default)]
pub(super) struct Lists {
    state: State,
    /// Open brackets of the list that is being skipped.
    depth: usize,
    /// Whether these are further rows, of which nothing is written.
    further: bool,
    rows: bool,
    /// Whether `VALUES` would be MySQL's function: it follows an operator.
    function: bool,
}

impl Lists {
    /// Notes a keyword that was written.
    pub(super) fn after(&mut self, keyword: &str) {
        self.state = match keyword {
            "VALUES" if !self.function => State::Values,
            "ROW" if self.state == State::Values => State::Values,
            "IN" => State::In,
            "ARRAY" => State::Array,
            _ => State::None,
        };
    }

    /// Returns what becomes of the next token.
    pub(super) fn next<'a>(&mut self, token: Token<'a>, last: Last) -> Fate<'a> {
        if self.depth > 0 {
            return self.skip(token);
        }
        self.function = last == Last::Operator;
        let state = std::mem::take(&mut self.state);
        match (state, token) {
            (State::Values, Token::Punctuation("(")) => self.begin("(", true),
            (State::In, Token::Punctuation("(")) => {
                self.state = State::Undecided;
                Fate::Write
            }
            (State::Undecided, Token::Word(word)) if begins_a_query(word) => Fate::Write,
            (State::Undecided, _) => {
                (self.depth, self.further, self.rows) = (1, false, false);
                self.skip(token)
            }
            (State::AfterRow, Token::Punctuation(",")) => {
                self.state = State::AfterComma;
                Fate::Drop
            }
            (State::AfterComma, Token::Punctuation("(")) => {
                self.further = true;
                self.rows = true;
                self.depth = 1;
                Fate::Drop
            }
            (State::AfterComma, Token::Word(word)) if word.eq_ignore_ascii_case("row") => {
                self.state = State::AfterComma;
                Fate::Drop
            }
            (State::AfterComma, _) => Fate::Comma,
            (State::Array, Token::Punctuation("[")) => self.begin("[", false),
            (State::Bracket, Token::Word(_) | Token::Quoted(_) | Token::Backticks(_)) => Fate::Write,
            (State::Bracket, _) => {
                (self.depth, self.further, self.rows) = (1, false, false);
                self.skip(token)
            }
            (_, Token::Punctuation("[")) if !matches!(last, Last::Name | Last::Close | Last::Value | Last::Dot) => {
                self.state = State::Bracket;
                Fate::Write
            }
            (State::Values, Token::Word(word)) if word.eq_ignore_ascii_case("row") => {
                self.state = State::Values;
                Fate::Write
            }
            _ => Fate::Write,
        }
    }

    fn begin<'a>(&mut self, sign: &'a str, rows: bool) -> Fate<'a> {
        (self.depth, self.further, self.rows) = (1, false, rows);
        Fate::Open(sign)
    }

    fn skip<'a>(&mut self, token: Token<'a>) -> Fate<'a> {
        match token {
            Token::Punctuation("(" | "[") => self.depth += 1,
            Token::Punctuation(")" | "]") => self.depth -= 1,
            _ => {}
        }
        let Token::Punctuation(sign) = token else { return Fate::Drop };
        if self.depth > 0 {
            return Fate::Drop;
        }
        if self.rows {
            self.state = State::AfterRow;
        }
        if self.further { Fate::Drop } else { Fate::Close(sign) }
    }
}

fn begins_a_query(word: &str) -> bool {
    ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|first| first.eq_ignore_ascii_case(word))
}
