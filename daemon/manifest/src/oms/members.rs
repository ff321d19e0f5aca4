//! The members of one JSON object, each taken out once and held to its kind. What is left over is known to be unknown.

use crate::canonical::Value;
use crate::document::printable;
use std::collections::BTreeMap;

/// A member that is not as the format wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{place}` {what}")]
pub struct ShapeError {
    place: String,
    what: String,
}

impl ShapeError {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// One object and where it stands in its document.
pub(crate) struct Members {
    place: String,
    members: BTreeMap<String, Value>,
}

impl Members {
    pub fn of(value: Value, place: impl Into<String>) -> Result<Self, ShapeError> {
        let place = place.into();
        match value {
            Value::Object(members) => Ok(Self { place, members }),
            _ => Err(ShapeError::new(place, "is no object")),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// The member whatever it is, `None` when it is absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    fn require(&mut self, name: &str) -> Result<Value, ShapeError> {
        self.take(name).ok_or_else(|| ShapeError::new(self.path(name), "is missing"))
    }

    pub fn text(&mut self, name: &str) -> Result<String, ShapeError> {
        let value = self.require(name)?;
        self.as_text(name, value)
    }

    /// A text, `None` when it is absent or `null`.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, ShapeError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.as_text(name, value).map(Some),
        }
    }

    fn as_text(&self, name: &str, value: Value) -> Result<String, ShapeError> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(ShapeError::new(self.path(name), "is no text")),
        }
    }

    /// A text that can only be this one.
    pub fn constant(&mut self, name: &str, expected: &str) -> Result<(), ShapeError> {
        let found = self.text(name)?;
        if found == expected {
            return Ok(());
        }
        Err(ShapeError::new(self.path(name), format!("is `{}`, not `{expected}`", printable(&found))))
    }

    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, ShapeError> {
        match self.require(name)? {
            Value::Array(items) => Ok(items),
            _ => Err(ShapeError::new(self.path(name), "is no list")),
        }
    }

    /// A list, empty when it is absent.
    pub fn optional_list(&mut self, name: &str) -> Result<Vec<Value>, ShapeError> {
        if self.members.contains_key(name) { self.list(name) } else { Ok(Vec::new()) }
    }

    pub fn object(&mut self, name: &str) -> Result<Self, ShapeError> {
        let value = self.require(name)?;
        Self::of(value, self.path(name))
    }

    /// Refuses members that nobody has taken.
    pub fn nothing_more(self) -> Result<(), ShapeError> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => Err(ShapeError::new(self.path(&printable(name)), "is not known here")),
        }
    }
}
