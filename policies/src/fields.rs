//! A document's mappings and fields, by the tables of the language ([`crate::grammar`]): every field
//! is known, given once, there if it must be, and of its form.
//!
//! Each reader returns `None` after it has reported what is wrong, and its caller goes on with the
//! next field, so that one walk finds all errors of a document.

use std::collections::HashMap;
use std::fmt::Display;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NoValue, StrDeserializer};

use crate::amounts::decimal;
use crate::document::{Node, Span, Value};
use crate::error::{Report, quote};
use crate::grammar::{Field, Form, Mapping, Rule, Word};
use crate::read::{self, nearest};

/// The fields of one mapping.
pub(crate) struct Fields<'n> {
    mapping: &'static Mapping,
    /// Where the mapping is.
    pub at: Span,
    /// Each with the place of its name, and its value.
    values: HashMap<&'static str, (Span, &'n Node)>,
}

/// What a field is that is either.
pub(crate) enum TruthOrMap<'n> {
    /// true or false.
    Truth(bool),
    /// A mapping: its fields.
    Map(Fields<'n>),
}

/// A field that is given with a value.
#[derive(Clone, Copy)]
pub(crate) struct Given<'n> {
    /// Its value.
    pub node: &'n Node,
    field: &'static Field,
}

impl<'n> Fields<'n> {
    /// Takes the mapping `node` apart.
    pub fn of(
        node: &'n Node,
        mapping: &'static Mapping,
        report: &mut Report<'_>,
    ) -> Option<Fields<'n>> {
        let what = mapping.what;
        let Value::Map(entries) = &node.value else {
            let message = format!("{what} is a mapping, not {}", node.describe());
            report.error(node.span, message, Some(&mapping.form()));
            return None;
        };
        let names = || mapping.names().collect::<Vec<_>>();
        let mut fields = Fields { mapping, at: node.span, values: HashMap::new() };
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for (key, value) in entries {
            let Value::Scalar { text: name, .. } = &key.value else {
                let message =
                    format!("a field of {what} is named by a word, not {}", key.describe());
                report.error(key.span, message, Some(&names().join(", ")));
                continue;
            };
            if let Some(first) = seen.insert(name, key.span) {
                let message =
                    format!("{} is given twice, first in line {}", quote(name), first.line);
                report.error(key.span, message, Some("each field once"));
            } else if let Some(field) = mapping.field(name) {
                fields.values.insert(field.name, (key.span, value));
            } else if let Some(later) = mapping.later(name) {
                let message = format!(
                    "`{}` is part of the language (it says {}), and this version does not carry it out \
                     yet",
                    later.name, later.doc
                );
                report.error(key.span, message, Some("leave it out"));
            } else if name == "<<" {
                let message = "merge keys (`<<`) are YAML 1.1, and are not read";
                let accepted =
                    "the fields written out; an alias (`*name`) stands for one whole value";
                report.error(key.span, message, Some(accepted));
            } else {
                let near = if report.is_full() { None } else { nearest(name, &names()) };
                let hint = match near {
                    Some(near) => format!(": did you mean `{near}`?"),
                    None => String::new(),
                };
                let message = format!("{what} has no field {}{hint}", quote(name));
                report.error(key.span, message, Some(&names().join(", ")));
            }
        }
        fields.check(entries.is_empty(), report);
        Some(fields)
    }

    /// What must be there, and what holds among the fields.
    fn check(&self, empty: bool, report: &mut Report<'_>) {
        for field in self.mapping.fields {
            if field.needed && !self.has(field.name) {
                let message = format!("{} needs `{}`", self.mapping.what, field.name);
                report.error(self.at, message, Some(&format!("{}: {}", field.name, field.example)));
            }
        }
        // One complaint about a field is enough.
        let mut named = Vec::new();
        for rule in self.mapping.rules {
            let (at, message, accepted) = match rule {
                Rule::NotEmpty { message, accepted } if empty => (self.at, message, accepted),
                Rule::OneOf { fields, message, accepted }
                    if !fields.iter().any(|name| self.has(name)) =>
                {
                    (self.at, message, accepted)
                }
                Rule::Needs { field, also, message, accepted } if !self.has(also) => {
                    let Some((at, _)) = self.values.get(field) else { continue };
                    if named.contains(field) {
                        continue;
                    }
                    named.push(field);
                    (*at, message, accepted)
                }
                Rule::Apart { field, beside, message, accepted } if self.has(beside) => {
                    let Some((at, _)) = self.values.get(field) else { continue };
                    if named.contains(field) {
                        continue;
                    }
                    named.push(field);
                    (*at, message, accepted)
                }
                _ => continue,
            };
            report.error(at, *message, Some(accepted));
        }
    }

    /// A field; given without a value it is an error.
    pub fn get(&self, name: &str, report: &mut Report<'_>) -> Option<Given<'n>> {
        debug_assert!(self.mapping.field(name).is_some(), "{}: {name}", self.mapping.what);
        let (_, node) = *self.values.get(name)?;
        if node.is_null() {
            let message = format!("`{name}` is given without a value");
            report.error(node.span, message, Some("give a value, or leave the field out"));
            return None;
        }
        Some(Given { node, field: self.mapping.field(name)? })
    }

    /// Whether the field is written at all.
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A field that is a mapping.
    pub fn map(&self, name: &str, report: &mut Report<'_>) -> Option<Fields<'n>> {
        self.get(name, report)?.fields(report)
    }

    /// The mappings of a list that are some.
    pub fn list(&self, name: &str, report: &mut Report<'_>) -> Vec<Fields<'n>> {
        self.get(name, report).map(|given| given.items(report)).unwrap_or_default()
    }

    /// What a field that is a mapping from numbers holds: each number, its place, and its value.
    pub fn numbered(&self, name: &str, report: &mut Report<'_>) -> Vec<(u64, Span, Given<'n>)> {
        self.get(name, report).map(|given| given.numbered(report)).unwrap_or_default()
    }

    /// A field that is one of a few words.
    pub fn word<T: for<'w> Deserialize<'w>>(
        &self,
        name: &str,
        report: &mut Report<'_>,
    ) -> Option<T> {
        self.get(name, report)?.word(report)
    }

    /// A field that is true or false.
    pub fn truth(&self, name: &str, report: &mut Report<'_>) -> Option<bool> {
        let given = self.get(name, report)?;
        read::boolean(given.node, &given.what(), report)
    }

    /// A field that is true or false, or a mapping that says more than true.
    pub fn truth_or_map(&self, name: &str, report: &mut Report<'_>) -> Option<TruthOrMap<'n>> {
        let given = self.get(name, report)?;
        if matches!(given.node.value, Value::Map(_)) {
            return given.fields(report).map(TruthOrMap::Map);
        }
        if let Some(truth) = read::truth(given.node) {
            return Some(TruthOrMap::Truth(truth));
        }
        let found = given.node.describe();
        given.wrong(format!("is true or false, or a mapping, not {found}"), report)
    }

    /// A field that is a whole number.
    pub fn number<T: TryFrom<u64>>(&self, name: &str, report: &mut Report<'_>) -> Option<T> {
        let given = self.get(name, report)?;
        let Form::Number(least, most) = given.field.form else { return given.misread() };
        let number = read::number(given.node, &given.what(), least..=most, report)?;
        T::try_from(number).ok()
    }

    /// A field that is text which `parse` understands.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        report: &mut Report<'_>,
    ) -> Option<T> {
        let given = self.get(name, report)?;
        let text = given.text(report)?;
        given.or_cannot_be(parse(text), text, report)
    }
}

impl<'n> Given<'n> {
    /// What messages call it.
    pub fn what(&self) -> String {
        format!("`{}`", self.field.name)
    }

    /// What would be accepted, for messages.
    pub fn accepted(&self) -> String {
        match &self.field.form {
            Form::Map(mapping) => mapping.form(),
            Form::Words(words) => words.iter().map(|word| word.text).collect::<Vec<_>>().join(", "),
            Form::Number(least, most) => format!("a whole number from {least} to {most}"),
            Form::Truth => "true, false".to_owned(),
            Form::TruthOr(mapping) => format!("true, false, or {}", mapping.form()),
            Form::Text(text) | Form::NumberOr(text) => text.accepted.to_owned(),
            Form::WordOr(word, mapping) => format!("{}, or {}", mapping.form(), word.text),
            Form::TextOr(text, mapping) => format!("{}, or {}", text.accepted, mapping.form()),
            Form::Numbered(numbered) => {
                format!("{}; each is {}", self.field.example, numbered.of.accepted)
            }
            Form::List { .. } | Form::Any => self.field.example.to_owned(),
        }
    }

    /// Reports what is wrong with the value: `why` follows the field's name.
    pub fn wrong<T>(&self, why: impl Display, report: &mut Report<'_>) -> Option<T> {
        let message = format!("{} {why}", self.what());
        report.error(self.node.span, message, Some(&self.accepted()));
        None
    }

    /// The value, or an error that `text` is none.
    pub fn or_cannot_be<T>(
        &self,
        value: Option<T>,
        text: &str,
        report: &mut Report<'_>,
    ) -> Option<T> {
        match value {
            Some(value) => Some(value),
            None => self.wrong(format!("cannot be {}", quote(text)), report),
        }
    }

    /// As text, which a plain number, truth value or null is not.
    pub fn text(&self, report: &mut Report<'_>) -> Option<&'n str> {
        read::text(self.node, &self.what(), &self.accepted(), report)
    }

    /// As a mapping.
    pub fn fields(&self, report: &mut Report<'_>) -> Option<Fields<'n>> {
        let mapping = match &self.field.form {
            Form::Map(mapping) | Form::TruthOr(mapping) => mapping,
            Form::WordOr(_, mapping) | Form::TextOr(_, mapping) if self.is_map() => mapping,
            Form::WordOr(word, _) => {
                let found = self.node.describe();
                let why = format!("is a mapping, or the word {}, not {found}", word.text);
                return self.wrong(why, report);
            }
            _ => return self.misread(),
        };
        Fields::of(self.node, mapping, report)
    }

    /// Whether it is a mapping.
    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether it is the word that stands for a mapping.
    pub fn is_word(&self) -> bool {
        matches!((&self.field.form, &self.node.value),
            (Form::WordOr(word, _), Value::Scalar { text, .. }) if text == word.text)
    }

    fn items(&self, report: &mut Report<'_>) -> Vec<Fields<'n>> {
        let Form::List { of, most } = &self.field.form else {
            self.misread::<()>();
            return Vec::new();
        };
        let nothing = |why: String, report: &mut Report<'_>| {
            self.wrong::<()>(why, report);
            Vec::new()
        };
        match &self.node.value {
            Value::List(items) if items.is_empty() => nothing("is an empty list".into(), report),
            Value::List(items) if items.len() > *most => {
                nothing(format!("has {} items; {most} is the most", items.len()), report)
            }
            Value::List(items) => {
                items.iter().filter_map(|item| Fields::of(item, of, report)).collect()
            }
            _ => nothing(format!("is a list, not {}", self.node.describe()), report),
        }
    }

    fn numbered(&self, report: &mut Report<'_>) -> Vec<(u64, Span, Given<'n>)> {
        let mut all = Vec::new();
        let Form::Numbered(numbered) = self.field.form else {
            self.misread::<()>();
            return all;
        };
        let entries = match &self.node.value {
            Value::Map(entries) if entries.is_empty() => {
                self.wrong::<()>("is an empty mapping", report);
                return all;
            }
            Value::Map(entries) => entries,
            _ => {
                self.wrong::<()>(format!("is a mapping, not {}", self.node.describe()), report);
                return all;
            }
        };
        let mut seen: HashMap<u64, Span> = HashMap::new();
        for (key, value) in entries {
            // In JSON they are quoted.
            let number = match &key.value {
                Value::Scalar { text, .. } => decimal(text),
                _ => None,
            };
            let Some(number) = number.filter(|number| *number <= numbered.last) else {
                let message = format!("{} is not {}", key.describe(), numbered.what);
                report.error(key.span, message, Some(&format!("0 to {}", numbered.last)));
                continue;
            };
            if let Some(first) = seen.insert(number, key.span) {
                let message = format!("{number} is given twice, first in line {}", first.line);
                report.error(key.span, message, Some("each number once"));
                continue;
            }
            all.push((number, key.span, Given { node: value, field: self.field }));
        }
        all
    }

    fn word<T: for<'w> Deserialize<'w>>(&self, report: &mut Report<'_>) -> Option<T> {
        let Form::Words(words) = self.field.form else { return self.misread() };
        let known = |text: &str| words.iter().find(|word: &&Word| word.text == text);
        if let Value::Scalar { text, .. } = &self.node.value
            && let Some(word) = known(text)
        {
            let word: StrDeserializer<'_, NoValue> = word.text.into_deserializer();
            let value = T::deserialize(word).ok();
            debug_assert!(value.is_some(), "{} knows no {text}", self.field.name);
            return value;
        }
        self.wrong(format!("cannot be {}", self.node.describe()), report)
    }

    /// A table and its reader differ: a mistake of this program.
    fn misread<T>(&self) -> Option<T> {
        debug_assert!(false, "{} is read as what it is not", self.field.name);
        None
    }
}
