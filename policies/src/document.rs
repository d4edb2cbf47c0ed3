//! Raw documents: YAML text becomes a tree of nodes, each with its place in the text.
//!
//! Scalars stay text, together with whether they were quoted: what `010` or `no` means is decided
//! by the field that holds it, never by YAML. The tree is bounded in depth, nodes and bytes, so
//! that nested aliases ("billion laughs") end in an error after a few thousand steps.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span as YamlSpan, options};

use crate::error::Report;
use crate::syntax;

/// Deepest nesting of lists and mappings; the language itself needs eight levels.
pub(crate) const MAX_DEPTH: usize = 32;
/// Most nodes of one file, counting what aliases repeat.
const MAX_NODES: usize = 50_000;
/// Most bytes of scalars of one file, counting what aliases repeat.
const MAX_TEXT: usize = 4 << 20;

/// What helps against both.
const LESS: &str = "several files, or less that aliases repeat: each repetition counts in full";

/// A place in a source: where something starts and how much of that line it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 0.
    pub column: usize,
    /// Characters covered on that line, at least 1.
    pub width: usize,
}

/// One node of a document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it is.
    pub span: Span,
    /// What it is.
    pub value: Value,
    /// Levels of lists and mappings, itself included.
    depth: usize,
    nodes: usize,
    bytes: usize,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Text; `plain` if it was written without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the text, duplicates included.
    Map(Vec<(Node, Node)>),
}

impl Node {
    fn scalar(span: Span, text: &str, plain: bool) -> Node {
        let bytes = text.len();
        Node {
            span,
            value: Value::Scalar { text: text.to_owned(), plain },
            depth: 0,
            nodes: 1,
            bytes,
        }
    }

    /// Whether this is YAML's null: nothing at all, `~` or `null`, without quotes.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// "a list", "a mapping" or the scalar itself, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => crate::error::quote(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// A list or mapping whose end has not been seen.
struct Open {
    span: Span,
    anchor: usize,
    items: Vec<Node>,
    is_map: bool,
    nodes: usize,
    bytes: usize,
}

/// Reads all documents of a text. Empty documents are left out. What is reported ends the reading;
/// the documents before it are returned.
pub(crate) fn documents(text: &str, report: &mut Report<'_>) -> Vec<Node> {
    let mut builder = Builder::default();
    let options = options! {
        emit_comments: false,
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at =
                    Span { line: error.marker().line(), column: error.marker().col(), width: 1 };
                let (said, accepted) = syntax::words(error.kind());
                report.error(at, format!("not valid YAML: {said}"), Some(accepted));
                break;
            }
        };
        if let Err((at, message, accepted)) = builder.take(event, &span) {
            report.error(at, message, Some(accepted));
            break;
        }
    }
    builder.documents
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
}

/// Where, what is wrong, and what would be accepted.
type Refused = (Span, String, &'static str);

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &YamlSpan) -> Result<(), Refused> {
        let at = place(span);
        if event.tag().is_some() {
            let message = "YAML tags (`!name`) have no meaning here: leave it out".to_owned();
            return Err((at, message, syntax::NO_TAG));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let node = Node::scalar(at, &text, style == ScalarStyle::Plain);
                self.push(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(at, anchor, false),
            Event::MappingStart(_, anchor, _) => self.start(at, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    let message = "this alias lies inside what it repeats".to_owned();
                    return Err((at, message, "an alias after the end of what it repeats"));
                };
                self.check(at, node.nodes, node.bytes)?;
                self.check_depth(at, node.depth)?;
                let node = node.clone();
                self.push(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, span: Span, anchor: usize, is_map: bool) -> Result<(), Refused> {
        let span = Span { width: 1, ..span };
        self.open.push(Open { span, anchor, items: Vec::new(), is_map, nodes: 1, bytes: 0 });
        self.check_depth(span, 0)
    }

    fn end(&mut self) -> Result<(), Refused> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let Open { span, anchor, items, is_map, nodes, bytes } = open;
        let deepest = items.iter().map(|item| item.depth).max().unwrap_or(0);
        let value = if is_map {
            let mut items = items.into_iter();
            let mut entries = Vec::new();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                entries.push((key, value));
            }
            Value::Map(entries)
        } else {
            Value::List(items)
        };
        let depth = 1 + deepest;
        // Its children have been charged already, when they were pushed.
        self.nodes -= nodes - 1;
        self.bytes -= bytes;
        self.push(Node { span, value, depth, nodes, bytes }, anchor)
    }

    fn push(&mut self, node: Node, anchor: usize) -> Result<(), Refused> {
        self.check(node.span, node.nodes, node.bytes)?;
        self.nodes += node.nodes;
        self.bytes += node.bytes;
        if anchor != 0 {
            // The copy kept for aliases is charged as well.
            self.check(node.span, node.nodes, node.bytes)?;
            self.nodes += node.nodes;
            self.bytes += node.bytes;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(open) => {
                open.nodes += node.nodes;
                open.bytes += node.bytes;
                open.items.push(node);
            }
            None if !node.is_null() => self.documents.push(node),
            None => {}
        }
        Ok(())
    }

    fn check_depth(&self, at: Span, depth: usize) -> Result<(), Refused> {
        if self.open.len() + depth > MAX_DEPTH {
            return Err((at, syntax::too_deep(), syntax::DEPTH));
        }
        Ok(())
    }

    fn check(&self, at: Span, nodes: usize, bytes: usize) -> Result<(), Refused> {
        if self.nodes + nodes > MAX_NODES {
            let message = format!("too large: more than {MAX_NODES} values, aliases counted");
            return Err((at, message, LESS));
        }
        if self.bytes + bytes > MAX_TEXT {
            let message = "too large: more than 4 MiB of text, aliases counted".to_owned();
            return Err((at, message, LESS));
        }
        Ok(())
    }
}

fn place(span: &YamlSpan) -> Span {
    let (start, end) = (span.start, span.end);
    let width = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Span { line: start.line(), column: start.col(), width: width.max(1) }
}
