//! The environment as a source of configuration.
//!
//! It is given the variables and does not read them itself, and does not know which keys exist.
//! Invariant: every variable with the prefix becomes exactly one key, or an error that names it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};

use super::error::ConfigError;

/// The name of this source in figment's errors.
pub(super) const NAME: &str = "environment";

/// What stands between nested keys.
const SEPARATOR: &str = "__";

/// The variables with a prefix, by their keys.
#[derive(Debug)]
pub(super) struct Environment {
    prefix: String,
    variables: BTreeMap<Vec<String>, Variable>,
}

#[derive(Debug)]
struct Variable {
    name: String,
    text: String,
    is_literal: bool,
}

impl Environment {
    /// Takes those of `variables` whose names begin with `prefix`, whatever their case.
    pub(super) fn read(
        prefix: &str,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Environment, ConfigError> {
        let mut known: BTreeMap<Vec<String>, Variable> = BTreeMap::new();
        for (name, text) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some((start, rest)) = name.split_at_checked(prefix.len()) else { continue };
            if !start.eq_ignore_ascii_case(prefix) {
                continue;
            }
            let bad = |reason: &str| ConfigError::Variable {
                name: name.to_owned(),
                reason: reason.into(),
            };
            let text = text.into_string().map_err(|_| bad("it is not UTF-8"))?;
            let key: Vec<String> =
                rest.to_ascii_lowercase().split(SEPARATOR).map(str::to_owned).collect();
            if key.iter().any(|part| part.is_empty()) {
                return Err(bad("its name ends, or doubles `__`, where a key should be"));
            }
            if let Some(other) = known.get(&key) {
                return Err(bad(&format!("{} sets the same key", other.name)));
            }
            let variable = Variable { name: name.to_owned(), text, is_literal: false };
            known.insert(key, variable);
        }
        Ok(Environment { prefix: prefix.to_owned(), variables: known })
    }

    /// The values, nested.
    pub(super) fn provider(&self) -> Result<impl Provider + use<>, ConfigError> {
        let mut root = Dict::new();
        // In order of keys: a table's own variable comes before those of its keys.
        for (key, variable) in &self.variables {
            // Cannot fail: what is nothing else is text, and text is taken as it stands.
            let text = || Value::from(variable.text.clone());
            let value = match variable.text.parse() {
                Ok(Value::String(..)) | Err(_) => text(),
                Ok(_) if variable.is_literal => text(),
                Ok(value) => value,
            };
            insert(&mut root, key, value).ok_or_else(|| ConfigError::Variable {
                name: variable.name.clone(),
                reason: "another variable sets the table that it is in".to_owned(),
            })?;
        }
        Ok(Values(root))
    }

    /// Makes the variable of a key text, whatever it looks like. False if it was already, or there
    /// is none.
    pub(super) fn take_literally(&mut self, key: &[String]) -> bool {
        match self.variables.get_mut(key) {
            Some(variable) if !variable.is_literal => {
                variable.is_literal = true;
                true
            }
            _ => false,
        }
    }

    /// The name of the variable of a key: as it is set, or else as it would be.
    pub(super) fn variable_of(&self, key: &[String]) -> String {
        // A value within a variable's list or table is that variable's.
        let set = (1..=key.len())
            .rev()
            .filter_map(|length| self.variables.get(key.get(..length)?))
            .next();
        match set {
            Some(variable) => variable.name.clone(),
            None => self.name_for(key),
        }
    }

    /// The name of the variable that would set a key.
    pub(super) fn name_for(&self, key: &[String]) -> String {
        format!("{}{}", self.prefix, key.join(SEPARATOR).to_ascii_uppercase())
    }
}

/// Puts a value into nested tables. `None` if one of them is not a table.
fn insert(dict: &mut Dict, key: &[String], value: Value) -> Option<()> {
    let (first, rest) = key.split_first()?;
    if rest.is_empty() {
        dict.insert(first.clone(), value);
        return Some(());
    }
    let inner = dict.entry(first.clone()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
    match inner {
        Value::Dict(_, inner) => insert(inner, rest, value),
        _ => None,
    }
}

struct Values(Dict);

impl Provider for Values {
    fn metadata(&self) -> Metadata {
        Metadata::named(NAME)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}
