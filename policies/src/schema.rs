//! The language as JSON Schema (draft 2020-12), for editors: written from the tables that the reader
//! goes by ([`crate::grammar`]).
//!
//! A schema sees one document and its values. What needs more is left to the reader: names that are
//! unique, numbers that fit each other, amounts in range, pools that overlap.

use serde_json::{Map, Value, json};

use crate::documents::DOCUMENT;
use crate::grammar::{Field, Form, Mapping, Rule, Text, Word};
use crate::guest::GUEST;
use crate::policy::POLICY;

/// What a schema is to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// Documents of `kind: Policy`.
    Policy,
    /// Documents of `kind: Guest`.
    Guest,
    /// Both, for files that hold both.
    Both,
}

/// The schema of documents of this kind. It is the same for the same version of this program, and
/// its objects are sorted by name.
pub fn schema(kind: SchemaKind) -> Value {
    let mut schema = mapping(&DOCUMENT);
    let (title, kinds): (_, &[(&str, &Mapping)]) = match kind {
        SchemaKind::Policy => ("A policy of assign", &[("Policy", &POLICY)]),
        SchemaKind::Guest => ("A guest of assign", &[("Guest", &GUEST)]),
        SchemaKind::Both => {
            ("A policy or guest of assign", &[("Policy", &POLICY), ("Guest", &GUEST)])
        }
    };
    let words: Vec<&str> = kinds.iter().map(|(word, _)| *word).collect();
    if let Some(kind) = schema.pointer_mut("/properties/kind/enum") {
        *kind = json!(words);
    }
    // What a `spec` may be depends on the word beside it.
    let specs = kinds.iter().map(|(word, spec)| {
        json!({
            "if": {"properties": {"kind": {"const": word}}, "required": ["kind"]},
            "then": {"properties": {"spec": mapping(spec)}},
        })
    });
    let specs: Vec<Value> = specs.collect();
    if let Value::Object(schema) = &mut schema {
        schema.insert("allOf".to_owned(), specs.into());
        schema.insert("title".to_owned(), title.into());
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    }
    schema
}

fn mapping(mapping: &Mapping) -> Value {
    let properties: Map<String, Value> =
        mapping.fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    let required: Vec<&str> =
        mapping.fields.iter().filter(|field| field.needed).map(|field| field.name).collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut all: Vec<Value> = Vec::new();
    for rule in mapping.rules {
        match rule {
            Rule::NotEmpty { .. } => schema["minProperties"] = 1.into(),
            Rule::OneOf { fields, .. } => {
                let each: Vec<Value> =
                    fields.iter().map(|field| json!({"required": [field]})).collect();
                all.push(json!({"anyOf": each}));
            }
            Rule::Needs { field, also, .. } => schema["dependentRequired"][*field] = json!([also]),
            Rule::Apart { field, beside, .. } => {
                all.push(json!({"not": {"required": [field, beside]}}));
            }
        }
    }
    if !all.is_empty() {
        schema["allOf"] = all.into();
    }
    schema
}

/// A field with what an editor shows about it.
fn property(field: &Field) -> Value {
    let mut schema = form(&field.form);
    let words: &[Word] = match &field.form {
        Form::Words(words) => words,
        Form::WordOr(word, _) => std::slice::from_ref(word),
        _ => &[],
    };
    let mut description = field.doc.to_owned();
    if !words.is_empty() {
        description.push('\n');
        let each = words.iter().map(|word| format!("\n- `{}`: {}", word.text, word.doc));
        description.extend(each);
    }
    match &field.form {
        Form::Text(text) | Form::NumberOr(text) | Form::TextOr(text, _) => {
            description.push_str(&format!("\n\nAccepted: {}.", text.accepted));
        }
        Form::Numbered(numbered) => {
            description.push_str(&format!("\n\nEach is {}.", numbered.of.accepted));
        }
        _ => {}
    }
    if !matches!(field.form, Form::Any) {
        description.push_str(&format!("\n\nExample: `{}: {}`", field.name, field.example));
    }
    schema["description"] = description.into();
    if let Some(default) = field.default {
        schema["default"] = match field.form {
            Form::Number(..) => default.parse::<u64>().map_or(default.into(), Value::from),
            Form::Truth | Form::TruthOr(_) => (default == "true").into(),
            _ => default.into(),
        };
    }
    schema
}

fn form(form: &Form) -> Value {
    match form {
        Form::Map(of) => mapping(of),
        Form::List { of, most } => {
            json!({"type": "array", "items": mapping(of), "minItems": 1, "maxItems": most})
        }
        Form::Words(words) => {
            let words: Vec<&str> = words.iter().map(|word| word.text).collect();
            json!({"type": "string", "enum": words})
        }
        Form::WordOr(word, of) => json!({"anyOf": [{"const": word.text}, mapping(of)]}),
        Form::Number(least, most) => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Form::Truth => json!({"type": "boolean"}),
        Form::TruthOr(of) => json!({"anyOf": [{"type": "boolean"}, mapping(of)]}),
        Form::Text(of) => text(of),
        Form::TextOr(of, other) => json!({"anyOf": [text(of), mapping(other)]}),
        Form::NumberOr(of) => number_or(of),
        Form::Numbered(numbered) => json!({
            "type": "object",
            "patternProperties": {numbered.pattern: number_or(&numbered.of)},
            "additionalProperties": false,
            "minProperties": 1,
        }),
        Form::Any => json!({"type": "object"}),
    }
}

fn number_or(of: &Text) -> Value {
    json!({"anyOf": [{"type": "integer", "minimum": 0}, text(of)]})
}

fn text(text: &Text) -> Value {
    json!({"type": "string", "pattern": text.pattern})
}
