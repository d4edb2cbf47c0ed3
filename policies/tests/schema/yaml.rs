//! YAML as an editor reads it: values by YAML 1.2's core schema (section 10.3.2), and nothing of what
//! the language makes of them.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// All documents of a text; `None` where it is not YAML.
pub fn documents(text: &str) -> Option<Vec<Value>> {
    let mut documents = Vec::new();
    // Open lists and mappings, each with its anchor.
    let mut open: Vec<(Vec<Value>, bool, usize)> = Vec::new();
    let mut anchors: HashMap<usize, Value> = HashMap::new();
    for event in Parser::new_from_str(text) {
        let (value, anchor) = match event.ok()?.0 {
            Event::Scalar(text, style, anchor, _) => match style {
                ScalarStyle::Plain => (plain(&text), anchor),
                _ => (Value::String(text.into_owned()), anchor),
            },
            Event::SequenceStart(_, anchor, _) => {
                open.push((Vec::new(), false, anchor));
                continue;
            }
            Event::MappingStart(_, anchor, _) => {
                open.push((Vec::new(), true, anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (items, is_map, anchor) = open.pop()?;
                (if is_map { mapping(items) } else { items.into() }, anchor)
            }
            Event::Alias(anchor) => (anchors.get(&anchor)?.clone(), 0),
            _ => continue,
        };
        anchors.insert(anchor, value.clone());
        match open.last_mut() {
            Some((items, ..)) => items.push(value),
            None if !value.is_null() => documents.push(value),
            None => {}
        }
    }
    Some(documents)
}

/// Keys of JSON are text; what stands twice is there once, as editors have it.
fn mapping(items: Vec<Value>) -> Value {
    let mut map = Map::new();
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        map.insert(key.as_str().map_or(key.to_string(), str::to_owned), value);
    }
    map.into()
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        // Leading zeros have no meaning: 010 is ten.
        return text.parse::<i64>().map_or_else(|_| 1e300.into(), Value::from);
    }
    let radix = |prefix, radix| i64::from_str_radix(text.strip_prefix(prefix)?, radix).ok();
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.into();
    }
    let numeric =
        digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let begins = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match text.parse::<f64>() {
        Ok(number) if numeric && begins => number.into(),
        _ => text.into(),
    }
}
