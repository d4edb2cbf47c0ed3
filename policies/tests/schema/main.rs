//! The schema that editors check by and the reader that decides say the same.

mod check;
mod documents;
mod yaml;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use policies::{SchemaKind, Source, parse, schema};
use serde_json::Value;

use documents::{FULL, ONLY_THE_READER, RIGHT, WRONG};

/// Whether the reader accepts a text; its complaint if not.
fn read(text: &str) -> Result<(), String> {
    let source = Source { name: "a.yaml".to_owned(), text: text.to_owned() };
    parse(&[source]).map(drop).map_err(|errors| errors.to_string())
}

/// Whether an editor finds nothing wrong with a text.
fn shown_right(text: &str) -> bool {
    let schema = schema(SchemaKind::Both);
    let documents = yaml::documents(text);
    documents.is_some_and(|documents| documents.iter().all(|value| check::is_valid(&schema, value)))
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Every example by its name.
fn example_files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(examples())
        .expect("the examples")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("an example");
            (path.file_name().expect("a name").to_string_lossy().into_owned(), text)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn right_documents_are_right_to_both() {
    let examples = example_files();
    assert!(examples.len() >= 8);
    let examples = examples.iter().map(|(_, text)| text.as_str());
    for text in examples.chain(RIGHT.iter().copied()).chain([FULL]) {
        assert_eq!(read(text), Ok(()), "{text}");
        assert!(shown_right(text), "{text}");
    }
}

#[test]
fn wrong_documents_are_wrong_to_both() {
    for text in WRONG {
        assert!(read(text).is_err(), "the reader accepts {text}");
        assert!(!shown_right(text), "the schema accepts {text}");
    }
}

/// What one document or one value does not show. Should the schema learn to say one of these, it
/// belongs to the others.
#[test]
fn some_mistakes_only_the_reader_finds() {
    for text in ONLY_THE_READER {
        assert!(read(text).is_err(), "the reader accepts {text}");
        assert!(shown_right(text), "the schema finds what is wrong with {text}");
    }
}

#[test]
fn each_kind_has_a_schema_of_its_own() {
    let values = yaml::documents(FULL).expect("YAML");
    let (policies, guests): (Vec<&Value>, _) =
        values.iter().partition(|value| value["kind"] == "Policy");
    for (kind, right, wrong) in
        [(SchemaKind::Policy, &policies, &guests), (SchemaKind::Guest, &guests, &policies)]
    {
        let schema = schema(kind);
        assert!(!right.is_empty() && right.iter().all(|value| check::is_valid(&schema, value)));
        assert!(!wrong.is_empty() && !wrong.iter().any(|value| check::is_valid(&schema, value)));
    }
}

/// A mapping within a schema, by where it is in a document: `spec.pools[].from`.
fn mappings(schema: &Value, at: &str, found: &mut Vec<(String, Value)>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object)
        && schema.get("additionalProperties").is_some()
    {
        found.push((at.to_owned(), schema.clone()));
        for (name, property) in properties {
            mappings(property, &format!("{at}.{name}"), found);
        }
    }
    if let Some(items) = schema.get("items") {
        mappings(items, &format!("{at}[]"), found);
    }
    for schema in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        mappings(schema, at, found);
    }
}

/// All mappings of a kind of document.
fn mappings_of(kind: SchemaKind) -> Vec<(String, Value)> {
    let (schema, mut found) = (schema(kind), Vec::new());
    mappings(&schema, "", &mut found);
    let spec = schema.pointer("/allOf/0/then/properties/spec").expect("a spec");
    mappings(spec, ".spec", &mut found);
    found
}

/// Every mapping of `value` with its place, and a way to put another one there.
fn visit(value: &mut Value, at: &str, change: &mut dyn FnMut(&str, &mut Value)) {
    change(at, value);
    match value {
        Value::Object(map) => {
            map.iter_mut().for_each(|(name, value)| visit(value, &format!("{at}.{name}"), change));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| visit(item, &format!("{at}[]"), change));
        }
        _ => {}
    }
}

fn full(kind: &str) -> Value {
    let mut values = yaml::documents(FULL).expect("YAML");
    values.retain(|value| value["kind"] == kind);
    // The first has every field that does not shut out another.
    values.remove(0)
}

/// Documents of JSON are documents of YAML.
fn read_value(value: &Value) -> Result<(), String> {
    read(&value.to_string())
}

#[test]
fn every_field_is_known_to_both() {
    for (kind, name) in [(SchemaKind::Policy, "Policy"), (SchemaKind::Guest, "Guest")] {
        let mut used: BTreeSet<String> = BTreeSet::new();
        for mut value in yaml::documents(FULL).expect("YAML") {
            if value["kind"] == name {
                assert_eq!(read_value(&value), Ok(()));
                visit(&mut value, "", &mut |at, _| {
                    used.insert(at.to_owned());
                });
            }
        }
        for (at, mapping) in mappings_of(kind) {
            let fields: Vec<&String> =
                mapping["properties"].as_object().expect("fields").keys().collect();
            // What the schema knows, the reader accepts: it is in a document that it accepts.
            for field in &fields {
                let place = format!("{at}.{field}");
                assert!(used.contains(&place), "{place} is in no document of this test");
            }
            // What the reader knows, the schema knows: the reader tells it when a field is wrong.
            if at.is_empty() {
                continue;
            }
            let told = told_fields(name, &at);
            let fields: BTreeSet<String> = fields.into_iter().cloned().collect();
            assert_eq!(told, fields, "{at}");
        }
    }
}

/// The fields that the reader offers where one of them is misspelt at `place`.
fn told_fields(kind: &str, place: &str) -> BTreeSet<String> {
    for value in yaml::documents(FULL).expect("YAML") {
        let mut value = value;
        let mut done = false;
        visit(&mut value, "", &mut |at, value| {
            if let (true, Value::Object(map)) = (at == place && !done, value) {
                map.insert("no such field".to_owned(), 1.into());
                done = true;
            }
        });
        if done && value["kind"] == kind {
            let said = read_value(&value).expect_err("an unknown field");
            let mut lines = said.lines().skip_while(|line| !line.contains("has no field `no such"));
            let accepted = lines.find_map(|line| line.split_once("= accepted: "));
            let (_, names) = accepted.unwrap_or_else(|| panic!("{place}: {said}"));
            return names.split(", ").map(str::to_owned).collect();
        }
    }
    panic!("{place} is in no document of this test");
}

#[test]
fn every_word_and_default_of_the_schema_is_accepted() {
    let mut tried = 0;
    for (kind, name) in [(SchemaKind::Policy, "Policy"), (SchemaKind::Guest, "Guest")] {
        for (at, mapping) in mappings_of(kind) {
            for (field, property) in mapping["properties"].as_object().expect("fields") {
                let words = property.get("enum").and_then(Value::as_array);
                let words = words.into_iter().flatten().chain(property.get("default"));
                let place = format!("{at}.{field}");
                for word in words.filter(|_| !["apiVersion", "kind"].contains(&field.as_str())) {
                    let mut value = full(name);
                    let mut put = 0;
                    visit(&mut value, "", &mut |at, value| {
                        if at == place {
                            *value = word.clone();
                            put += 1;
                        }
                    });
                    assert!(put > 0, "{place} is not in the first document of {name}");
                    assert_eq!(read_value(&value), Ok(()), "{place}: {word}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 25, "{tried}");
}

/// Leaving a field out means its default.
#[test]
fn defaults_are_what_leaving_out_means() {
    for (kind, name) in [(SchemaKind::Policy, "Policy"), (SchemaKind::Guest, "Guest")] {
        for (at, mapping) in mappings_of(kind) {
            for (field, property) in mapping["properties"].as_object().expect("fields") {
                let Some(default) = property.get("default") else { continue };
                let [mut with, mut without] = [full(name), full(name)];
                visit(&mut with, "", &mut |place, value| {
                    if place == at {
                        value[field.as_str()] = default.clone();
                    }
                });
                visit(&mut without, "", &mut |place, value| {
                    if let (true, Value::Object(map)) = (place == at, value) {
                        map.remove(field);
                    }
                });
                let parsed = |value: &Value| {
                    let source = Source { name: "a.yaml".to_owned(), text: value.to_string() };
                    parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"))
                };
                assert_eq!(parsed(&with), parsed(&without), "{at}.{field}");
            }
        }
    }
}

#[test]
fn editors_are_told_what_everything_means() {
    for kind in [SchemaKind::Policy, SchemaKind::Guest] {
        for (at, mapping) in mappings_of(kind) {
            for (field, property) in mapping["properties"].as_object().expect("fields") {
                let described = property.get("description").and_then(Value::as_str);
                let described = described.unwrap_or_default();
                assert!(described.len() > 8 && described.contains('.'), "{at}.{field}");
            }
        }
    }
}

/// With `UPDATE_SCHEMA=1` it is written anew.
#[test]
fn the_schema_beside_the_examples_is_this_one() {
    let path = examples().join("schema.json");
    let text = serde_json::to_string_pretty(&schema(SchemaKind::Both)).expect("plain data") + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).expect("the schema");
    }
    let kept = std::fs::read_to_string(&path).expect("the schema");
    assert!(kept == text, "examples/schema.json is old: run this test with UPDATE_SCHEMA=1");
    for (name, text) in example_files() {
        let line = "# yaml-language-server: $schema=schema.json";
        assert!(text.lines().any(|found| found == line), "{name} has no line for editors");
    }
}
