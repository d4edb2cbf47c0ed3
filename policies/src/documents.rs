//! From sources to documents: the envelope every document shares, and what holds across files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::{self, Node};
use crate::error::{Error, Errors, Report};
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, word};
use crate::guest::{self, Guest};
use crate::names;
use crate::policy::{self, Policy};
use crate::pool::Pool;
use crate::read::Taken;

/// One text and the name it goes by in errors: the path of its file. Relative paths within the text
/// start from the folder of that path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path of the file, or a made-up name.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// Everything that the sources say, in the order of the sources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Documents {
    /// All policies; names are unique.
    pub policies: Vec<Policy>,
    /// All guests; names are unique.
    pub guests: Vec<Guest>,
}

impl Documents {
    /// The pool of this name, and its policy.
    pub fn pool(&self, name: &str) -> Option<(&Policy, &Pool)> {
        self.policies
            .iter()
            .flat_map(|policy| policy.pools.iter().map(move |pool| (policy, pool)))
            .find(|(_, pool)| pool.name == name)
    }
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "assign/v1")]
    V1,
}

#[derive(Clone, Copy, Deserialize)]
enum Kind {
    Policy,
    Guest,
}

/// The envelope of every document.
pub(crate) static DOCUMENT: Mapping = Mapping {
    what: "a document",
    fields: &[
        Field::new(
            "apiVersion",
            Form::Words(&[word("assign/v1", "this version")]),
            "assign/v1",
            "The version of the language.",
        )
        .needed(),
        Field::new(
            "kind",
            Form::Words(&[
                word("Policy", "what a host should be: pools of devices"),
                word("Guest", "a machine that gets some of them"),
            ]),
            "Policy",
            "What the document is about.",
        )
        .needed(),
        Field::new("metadata", Form::Map(&METADATA), "{name: edge-node}", "What it is known by.")
            .needed(),
        Field::new("spec", Form::Any, "{…}", "What it says.").needed(),
    ],
    rules: &[],
    later: &[],
};

static METADATA: Mapping = Mapping {
    what: "`metadata`",
    fields: &[Field::new(
        "name",
        Form::Text(names::NAME),
        "edge-node",
        "Its name, unique among the documents of its kind.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

/// What must not be repeated among all sources.
#[derive(Default)]
struct Seen {
    policies: policy::Seen,
    guests: Taken,
}

/// Reads all sources together: names are unique among all of them.
///
/// # Errors
/// Everything wrong in any source, in the order of the sources. A source that is not YAML ends at
/// its first syntax error; all else is collected.
pub fn parse(sources: &[Source]) -> Result<Documents, Errors> {
    let mut errors = Vec::new();
    let documents = parse_into(sources, &mut errors);
    if errors.is_empty() { Ok(documents) } else { Err(Errors(errors)) }
}

pub(crate) fn parse_into(sources: &[Source], errors: &mut Vec<Error>) -> Documents {
    let mut documents = Documents::default();
    let mut seen = Seen::default();
    for source in sources {
        let mut report = Report::new(&source.name, &source.text);
        let nodes = document::documents(&source.text, &mut report);
        if nodes.is_empty() && report.count() == 0 {
            let message = "holds no document: begin with `apiVersion: assign/v1` and `kind: Policy` or `kind: Guest`";
            errors.push(Error::of_file(&source.name, message));
        }
        let folder = Path::new(&source.name).parent().unwrap_or(Path::new(""));
        for node in &nodes {
            read(node, folder, &mut documents, &mut seen, &mut report);
        }
        errors.extend(report.finish());
    }
    documents
}

/// Reads one document: its envelope, then what its kind says.
fn read(
    node: &Node,
    folder: &Path,
    documents: &mut Documents,
    seen: &mut Seen,
    report: &mut Report<'_>,
) {
    let Some(fields) = Fields::of(node, &DOCUMENT, report) else { return };
    let _: Option<Version> = fields.word("apiVersion", report);
    let kind = fields.word("kind", report);
    let named = fields.map("metadata", report).and_then(|fields| {
        let name = fields.parsed("name", names::name, report)?;
        Some((name, fields.get("name", report)?.node.span))
    });
    let spec = fields.get("spec", report).map(|given| given.node);
    match kind {
        Some(Kind::Policy) => {
            documents.policies.extend(policy::read(named, spec, &mut seen.policies, report));
        }
        Some(Kind::Guest) => {
            documents.guests.extend(guest::read(named, spec, folder, &mut seen.guests, report));
        }
        None => {}
    }
}
