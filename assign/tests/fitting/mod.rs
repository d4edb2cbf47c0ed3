//! Whether a value is as a schema says, for the schemas that this project prints. A keyword that is not
//! known here panics, so that none is passed over.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sriov::PciAddress;

/// A document of schemas that refer to each other.
pub struct Fitting {
    /// All of it.
    pub document: Value,
    /// Whether a value has every field that is described, needed or not.
    pub whole: bool,
}

/// The words of a list.
pub fn words(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().cloned().unwrap_or_default();
    list.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

impl Fitting {
    fn resolved(&self, schema: &Value) -> Value {
        let Some(name) = schema.get("$ref") else { return schema.clone() };
        let place = name.as_str().and_then(|name| name.strip_prefix('#'));
        let found = self.document.pointer(place.expect("a reference within the document"));
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    }

    /// What is wrong with `value`, where anything is.
    pub fn misfit(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolved(schema);
        let keywords = schema.as_object().expect("a schema is an object");
        let wrong = |what: &str| Some(format!("{at}: {what}: {value}"));
        for (keyword, wanted) in keywords {
            let found = match keyword.as_str() {
                "description" | "default" | "examples" | "$schema" | "title" | "$defs" => None,
                "required" => {
                    let lacks = |name: &&String| value.get(name.as_str()).is_none();
                    let lacking = words(wanted).iter().find(lacks).cloned();
                    lacking.map(|name| format!("{at}: lacks {name}: {value}"))
                }
                "const" if wanted != value => wrong("no such word"),
                "const" => None,
                "oneOf" => {
                    let list = wanted.as_array().expect("schemas");
                    let all: Vec<_> = list.iter().map(|one| self.misfit(one, value, at)).collect();
                    match all.iter().filter(|misfit| misfit.is_none()).count() {
                        1 => None,
                        count => Some(format!("{at}: fits {count}: {value}: {all:?}")),
                    }
                }
                "type" => {
                    let types = match wanted {
                        Value::String(one) => BTreeSet::from([one.clone()]),
                        several => words(several),
                    };
                    let is = |name: &str| match name {
                        "object" => value.is_object(),
                        "array" => value.is_array(),
                        "string" => value.is_string(),
                        "boolean" => value.is_boolean(),
                        "integer" => value.is_u64() || value.is_i64(),
                        "number" => value.is_number(),
                        "null" => value.is_null(),
                        other => panic!("type {other}"),
                    };
                    if types.iter().any(|name| is(name)) { None } else { wrong("its type") }
                }
                "enum" if !wanted.as_array().expect("words").contains(value) => {
                    wrong("no such word")
                }
                "enum" => None,
                "minimum" => {
                    let least = wanted.as_f64().expect("a number");
                    let is_less = value.as_f64().is_some_and(|number| number < least);
                    if is_less { wrong("less than there can be") } else { None }
                }
                "maximum" => {
                    let most = wanted.as_f64().expect("a number");
                    let is_more = value.as_f64().is_some_and(|number| number > most);
                    if is_more { wrong("more than there can be") } else { None }
                }
                "pattern" => {
                    // The only one that there is.
                    let address =
                        value.as_str().map(str::parse::<PciAddress>).and_then(Result::err);
                    address.map(|error| format!("{at}: {error}"))
                }
                "items" => value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find_map(|one| self.misfit(wanted, one, at)),
                "anyOf" => {
                    let all: Option<Vec<String>> = wanted
                        .as_array()
                        .expect("schemas")
                        .iter()
                        .map(|one| self.misfit(one, value, at))
                        .collect();
                    all.map(|all| all.join(" and "))
                }
                "properties" => value.as_object().and_then(|fields| {
                    let wanted = wanted.as_object().expect("schemas by name");
                    let names =
                        |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
                    let is_right = match self.whole {
                        true => names(wanted) == names(fields),
                        false => names(wanted).is_superset(&names(fields)),
                    };
                    if !is_right {
                        return Some(format!(
                            "{at}: {:?} are not {:?}",
                            names(wanted),
                            names(fields)
                        ));
                    }
                    wanted.iter().find_map(|(name, schema)| {
                        self.misfit(schema, fields.get(name)?, &format!("{at}.{name}"))
                    })
                }),
                "additionalProperties" if wanted.is_object() => value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .find_map(|(name, one)| self.misfit(wanted, one, &format!("{at}.{name}"))),
                "additionalProperties" => None,
                other => panic!("the keyword {other} is not checked"),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
