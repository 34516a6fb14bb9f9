//! [`Mistake`]: an error in a configuration file, and the place it is at.

use std::ops::Range;

/// Edits between a key and its suggestion, at most.
const NEAR: usize = 2;

/// One error of a file, with its range of bytes.
#[derive(Debug)]
pub(crate) struct Mistake {
    span: Range<usize>,
    message: String,
}

impl Mistake {
    pub(crate) const fn new(span: Range<usize>, message: String) -> Self {
        Self { span, message }
    }

    /// Converts an error of the parser, and suggests the nearest of the keys or values that it expected.
    pub(crate) fn of_toml(span: Option<Range<usize>>, message: &str) -> Self {
        let message = message.trim().replace('\n', "; ");
        let message = nearest(&message).map(|near| format!("{message}; did you mean `{near}`?")).unwrap_or(message);
        Self { span: span.unwrap_or_default(), message }
    }

    /// Renders the error as `FILE:LINE:COLUMN: message`, the line, and a caret below the place.
    fn render(&self, file: &str, text: &str) -> String {
        let start = boundary(text, self.span.start);
        let begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[begin..].lines().next().unwrap_or_default();
        let number = text[..begin].matches('\n').count() + 1;
        let before = text[begin..start].chars().count();
        let end = boundary(text, self.span.end).clamp(start, (begin + line.len()).max(start));
        let carets = "^".repeat(text[start..end].chars().count().max(1));
        let margin = " ".repeat(number.to_string().len());
        let message = &self.message;
        let column = before + 1;
        format!(
            "{file}:{number}:{column}: {message}\n{margin} |\n{number} | {line}\n{margin} | {}{carets}",
            " ".repeat(before)
        )
    }
}

/// The last character boundary that is not after `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

/// Renders errors in the order of the file.
pub(crate) fn render_all(mut mistakes: Vec<Mistake>, file: &str, text: &str) -> String {
    mistakes.sort_by_key(|mistake| mistake.span.start);
    mistakes.iter().map(|mistake| mistake.render(file, text)).collect::<Vec<_>>().join("\n")
}

/// The expected name nearest to the unknown one: serde writes both in backticks, the unknown one first.
fn nearest(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    names.map(|name| (distance(unknown, name), name)).filter(|(far, _)| *far <= NEAR).min().map(|(_, name)| name)
}

/// Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
