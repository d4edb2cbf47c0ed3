//! Checks a value against a JSON Schema, as far as ours go: a keyword that is not known here panics,
//! so that none is passed over.

use regex_lite::Regex;
use serde_json::Value;

/// What is told about a value and demands nothing.
const TOLD: &[&str] = &["$schema", "title", "description", "default"];

/// Whether `value` is as `schema` has it.
pub fn is_valid(schema: &Value, value: &Value) -> bool {
    let keywords = schema.as_object().expect("a schema is an object");
    keywords.iter().all(|(keyword, wanted)| holds(schema, keyword, wanted, value))
}

fn holds(schema: &Value, keyword: &str, wanted: &Value, value: &Value) -> bool {
    let each = |wanted: &Value| wanted.as_array().expect("schemas").clone();
    let names = |wanted: &Value| -> Vec<String> {
        each(wanted).iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let has = |name: &String| value.get(name).is_some();
    match keyword {
        _ if TOLD.contains(&keyword) => true,
        "type" => match wanted.as_str().expect("a type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            other => panic!("type {other}"),
        },
        "enum" => each(wanted).contains(value),
        "const" => wanted == value,
        "pattern" => {
            let pattern = wanted.as_str().expect("a pattern");
            value.as_str().is_none_or(|text| is_match(pattern, text))
        }
        "minimum" => {
            value.as_f64().is_none_or(|number| number >= wanted.as_f64().expect("a number"))
        }
        "maximum" => {
            value.as_f64().is_none_or(|number| number <= wanted.as_f64().expect("a number"))
        }
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 >= wanted.as_u64().expect("a number")),
        "maxItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 <= wanted.as_u64().expect("a number")),
        "minProperties" => value
            .as_object()
            .is_none_or(|map| map.len() as u64 >= wanted.as_u64().expect("a number")),
        "items" => {
            value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(wanted, item)))
        }
        "properties" => value.as_object().is_none_or(|map| {
            map.iter()
                .all(|(name, value)| wanted.get(name).is_none_or(|schema| is_valid(schema, value)))
        }),
        "additionalProperties" => {
            assert_eq!(wanted, false, "no others");
            let known = |name: &String| {
                let named = schema.get("properties").is_some_and(|known| known.get(name).is_some());
                let patterns = schema.get("patternProperties").and_then(Value::as_object);
                named || patterns.is_some_and(|all| all.keys().any(|one| is_match(one, name)))
            };
            value.as_object().is_none_or(|map| map.keys().all(known))
        }
        "patternProperties" => value.as_object().is_none_or(|map| {
            wanted.as_object().expect("schemas").iter().all(|(pattern, schema)| {
                let mut named = map.iter().filter(|(name, _)| is_match(pattern, name));
                named.all(|(_, value)| is_valid(schema, value))
            })
        }),
        "required" => !value.is_object() || names(wanted).iter().all(has),
        "dependentRequired" => wanted
            .as_object()
            .expect("names")
            .iter()
            .all(|(name, also)| !has(name) || names(also).iter().all(has)),
        "allOf" => each(wanted).iter().all(|schema| is_valid(schema, value)),
        "anyOf" => each(wanted).iter().any(|schema| is_valid(schema, value)),
        "not" => !is_valid(wanted, value),
        "if" => !is_valid(wanted, value) || is_valid(schema.get("then").expect("then"), value),
        "then" => true,
        other => panic!("the keyword {other} is not checked"),
    }
}

fn is_match(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).expect("an expression").is_match(text)
}
