//! [`Form`]: fields of a form or query.

use crate::base::error::Error;

/// Decoded fields. A field that is given twice has its first value.
#[derive(Clone, Debug, Default)]
pub(in crate::admin) struct Form(Vec<(String, String)>);

impl Form {
    pub(in crate::admin) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// Returns a field that is there and not empty.
    pub(in crate::admin) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim());
        value.filter(|value| !value.is_empty())
    }

    /// # Errors
    /// If the field is missing or empty.
    pub(in crate::admin) fn need(&self, name: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| Error::config(format!("the field {name} is missing")))
    }

    pub(in crate::admin) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}
