//! [`Scanner`]: a one-pass SQL tokenizer for several dialects.
//!
//! It never backtracks, and looks ahead only over input that it then consumes. If the end of a text or comment
//! depends on the dialect, it returns [`Token::Unclear`], because values could otherwise be mistaken for names.

/// Token of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Keyword, or unquoted name.
    Word(&'a str),
    /// Double-quoted name or text, with its quotes.
    Quoted(&'a str),
    /// Backtick-quoted name, with its quotes.
    Backticks(&'a str),
    /// Text, number or parameter.
    Value,
    /// Comma, parenthesis or operator.
    Punctuation(&'a str),
    /// The rest depends on the dialect.
    Unclear,
}

/// Reads a statement from left to right.
pub(crate) struct Scanner<'a> {
    sql: &'a str,
    at: usize,
    /// Whether a sign here belongs to a number, because no operand precedes it.
    signed: bool,
    /// Whether a parameter was read.
    pub(super) parameters: bool,
}

impl<'a> Scanner<'a> {
    pub(crate) const fn new(sql: &'a str) -> Self {
        Self { sql, at: 0, signed: true, parameters: false }
    }

    /// Returns whether `byte` follows immediately.
    pub(super) fn next_is(&self, byte: u8) -> bool {
        self.peek(0) == Some(byte)
    }

    pub(super) fn next_token(&mut self) -> Option<Token<'a>> {
        if !self.skip_blanks() {
            return Some(self.ambiguous());
        }
        let first = self.peek(0)?;
        let token = match first {
            b'\'' => self.text(false),
            b'"' => self.quoted(),
            b'`' => self.backticks(),
            b'$' => self.dollar(),
            b'#' => self.hash(),
            b'?' | b':' | b'@' => self.parameter(),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_some_and(|b| b.is_ascii_digit()) && self.signed => self.number(),
            b'+' | b'-' if self.signed && self.peek(1).is_some_and(|b| b.is_ascii_digit() || b == b'.') => {
                self.at += 1;
                self.number()
            }
            _ if is_word(first) => self.word(),
            _ => self.punctuation(),
        };
        self.signed = match token {
            Token::Punctuation(sign) => !matches!(sign, ")" | "]" | "."),
            Token::Word(word) => opens_an_operand(word),
            _ => false,
        };
        Some(token)
    }

    fn rest(&self) -> &'a [u8] {
        &self.sql.as_bytes()[self.at..]
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.as_bytes().get(self.at + ahead).copied()
    }

    /// Skips bytes accepted by `wanted`.
    fn pass(&mut self, wanted: impl Fn(u8) -> bool) {
        self.at += self.rest().iter().take_while(|b| wanted(**b)).count();
    }

    fn ambiguous(&mut self) -> Token<'a> {
        self.at = self.sql.len();
        Token::Unclear
    }

    /// Skips white space and comments; returns false if the end of a comment is ambiguous.
    fn skip_blanks(&mut self) -> bool {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b), _) if b.is_ascii_whitespace() || b.is_ascii_control() => self.at += 1,
                (Some(b'-'), Some(b'-')) => {
                    if !self.line_comment() {
                        return false;
                    }
                }
                (Some(b'/'), Some(b'*')) => {
                    // PostgreSQL nests comments, MySQL does not.
                    let body = &self.sql[self.at + 2..];
                    let Some(end) = body.find("*/") else {
                        self.at = self.sql.len();
                        return true;
                    };
                    if body[..end].contains("/*") || is_run(&body[..end]) {
                        return false;
                    }
                    self.at += end + 4;
                }
                _ => return true,
            }
        }
    }

    /// Skips a comment up to the end of the line; returns false if its end is unclear.
    fn line_comment(&mut self) -> bool {
        let from = self.at;
        self.pass(|b| b != b'\n');
        let line = &self.sql[from + 2..self.at];
        let begun = line.is_empty() || line.starts_with(|first: char| first.is_ascii_whitespace());
        // In MySQL `5--1` is a difference. In PostgreSQL a carriage return ends the line.
        let one_line = !line.trim_end_matches('\r').contains('\r');
        one_line && (begun || !line.contains(QUOTES) && !line.contains("/*"))
    }

    /// Reads an operator on JSON; in MySQL a comment begins here.
    fn hash(&mut self) -> Token<'a> {
        let rest = &self.sql[self.at..];
        let operator = ["#>>", "#>", "#-"].into_iter().find(|operator| rest.starts_with(operator));
        let Some(operator) = operator else { return self.ambiguous() };
        let operand = rest[operator.len()..].trim_start_matches(' ');
        if operand.starts_with(['\'', '$', '?', ':', '@']) || operand.starts_with("ARRAY") {
            self.at += operator.len();
            Token::Punctuation(operator)
        } else {
            self.ambiguous()
        }
    }

    /// Reads `'text'`, with backslash escapes only if the dialect is known to have them.
    fn text(&mut self, backslashes: bool) -> Token<'a> {
        if self.tripled("'''") {
            return self.ambiguous();
        }
        self.closed_by(b'\'', backslashes).map_or(Token::Unclear, |_| Token::Value)
    }

    fn quoted(&mut self) -> Token<'a> {
        if self.tripled("\"\"\"") {
            return self.ambiguous();
        }
        self.closed_by(b'"', false).map_or(Token::Unclear, Token::Quoted)
    }

    /// Returns whether a text begins with three quotes: in BigQuery these are one, and three more end it.
    fn tripled(&self, quotes: &str) -> bool {
        self.sql[self.at..].starts_with(quotes)
    }

    fn backticks(&mut self) -> Token<'a> {
        let from = self.at;
        self.at += 1;
        self.pass(|b| b != b'`');
        let closed = self.peek(0).is_some();
        self.at += usize::from(closed);
        let name = &self.sql[from..self.at];
        if closed && name.bytes().all(|b| is_word(b) || matches!(b, b'`' | b' ' | b'-')) {
            Token::Backticks(name)
        } else {
            Token::Value
        }
    }

    /// Reads up to the closing quote and returns the text with its quotes; `None` if a backslash makes the end
    /// ambiguous.
    fn closed_by(&mut self, quote: u8, backslashes: bool) -> Option<&'a str> {
        let from = self.at;
        self.at += 1;
        loop {
            self.pass(|b| b != quote && b != b'\\');
            match (self.peek(0), self.peek(1)) {
                (None, _) => {
                    self.at = self.sql.len();
                    return Some("\"\"");
                }
                (Some(b'\\'), _) if backslashes => self.at = (self.at + 2).min(self.sql.len()),
                (Some(b'\\'), Some(b'\\')) => self.at += 2,
                (Some(b'\\'), Some(next)) if next == quote => {
                    self.ambiguous();
                    return None;
                }
                (Some(b'\\'), _) => self.at += 1,
                (Some(_), Some(next)) if next == quote => self.at += 2,
                _ => {
                    self.at += 1;
                    return Some(&self.sql[from..self.at]);
                }
            }
        }
    }

    /// Reads `$1`, or PostgreSQL's `$tag$text$tag$`.
    fn dollar(&mut self) -> Token<'a> {
        let from = self.at;
        self.at += 1;
        self.pass(is_word);
        if self.peek(0) == Some(b'$') {
            self.at += 1;
            let tag = &self.sql[from..self.at];
            self.at = self.sql[self.at..].find(tag).map_or(self.sql.len(), |end| self.at + end + tag.len());
        } else {
            self.parameters = true;
        }
        Token::Value
    }

    /// Reads `?`, `?1`, `:name`, `@name`, or an operator with the same first byte.
    fn parameter(&mut self) -> Token<'a> {
        let (first, second) = (self.peek(0), self.peek(1));
        let named = second.is_some_and(is_word);
        match first {
            Some(b'?') if !matches!(second, Some(b'|' | b'&')) => {}
            Some(b':' | b'@') if named => {}
            Some(b'@') if second == Some(b'@') && self.peek(2).is_some_and(is_word) => self.at += 1,
            _ => return self.punctuation(),
        }
        self.at += 1;
        self.pass(is_word);
        self.parameters = true;
        Token::Value
    }

    fn number(&mut self) -> Token<'a> {
        loop {
            self.pass(|b| is_word(b) || b == b'.');
            let exponent = matches!(self.sql.as_bytes()[self.at - 1], b'e' | b'E');
            let signed = matches!(self.peek(0), Some(b'+' | b'-')) && self.peek(1).is_some_and(|b| b.is_ascii_digit());
            if !(exponent && signed) {
                return Token::Value;
            }
            self.at += 1;
        }
    }

    fn word(&mut self) -> Token<'a> {
        let from = self.at;
        self.pass(is_word);
        if self.peek(0) == Some(b'$') {
            self.pass(|b| is_word(b) || b == b'$');
            let dollars = self.sql[from..self.at].bytes().filter(|b| *b == b'$').count();
            // `v$session` is a name. Two dollars may enclose a text, where a blank was forgotten.
            return if dollars == 1 { Token::Word(&self.sql[from..self.at]) } else { self.ambiguous() };
        }
        let word = &self.sql[from..self.at];
        // E'…', N'…', X'…', B'…', _utf8'…': text with a prefix.
        match (self.peek(0), word) {
            (Some(b'\''), "e" | "E") => self.text(true),
            (Some(b'\''), "n" | "N" | "x" | "X" | "b" | "B") => self.text(false),
            (Some(b'\''), _) if word.starts_with('_') => self.text(false),
            // Oracle's q'[it's]': text between brackets of any kind.
            (Some(b'\''), "q" | "Q" | "nq" | "NQ" | "nQ" | "Nq") => self.ambiguous(),
            _ => Token::Word(word),
        }
    }

    /// Reads one of `( ) [ ] , ; .`, or an operator of any length.
    fn punctuation(&mut self) -> Token<'a> {
        let from = self.at;
        let alone = |b: u8| matches!(b, b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b'{' | b'}');
        let first = self.peek(0).unwrap_or(b' ');
        self.at += 1;
        let mut last = first;
        while let Some(b) = self.peek(0).filter(|_| !alone(first)) {
            let comment = matches!((last, b), (b'-', b'-') | (b'/', b'*'));
            // A sign after an operator is a number's: `a = -1`, `a=-1`.
            let sign = matches!(b, b'-' | b'+') && last != b'-' && last != b'<' && last != b'@';
            if comment
                || sign
                || !b.is_ascii_punctuation()
                || alone(b)
                || matches!(b, b'\'' | b'"' | b'`' | b'$' | b'?' | b'_')
            {
                break;
            }
            if matches!(b, b':' | b'@') && self.peek(1).is_some_and(is_word) && last != b':' {
                break;
            }
            last = b;
            self.at += 1;
        }
        Token::Punctuation(&self.sql[from..self.at])
    }
}

const QUOTES: [char; 3] = ['\'', '"', '`'];

/// Returns whether MySQL reads the inside of a comment, where a text may hold the comment's end.
fn is_run(comment: &str) -> bool {
    (comment.starts_with(['!', '+']) || comment.starts_with("M!")) && comment.contains(QUOTES)
}

/// Bytes beyond ASCII are letters. A dollar is not, although PostgreSQL allows it in names: it may start a text.
const fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Returns whether a sign after this word belongs to a number.
fn opens_an_operand(word: &str) -> bool {
    const WORDS: [&str; 17] = [
        "and",
        "between",
        "by",
        "case",
        "else",
        "in",
        "is",
        "like",
        "limit",
        "not",
        "offset",
        "or",
        "returning",
        "select",
        "then",
        "values",
        "when",
    ];
    WORDS.iter().any(|opens| opens.eq_ignore_ascii_case(word))
}
