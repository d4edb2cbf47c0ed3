//! What is said where text is no YAML, in words that need no knowledge of how YAML is parsed, and
//! what would be accepted instead.

use granit_parser::ErrorKind;

use crate::document::MAX_DEPTH;
use crate::error::quote;

const FIELDS: &str = "`name: value`, with the fields of one mapping in the same column";
const FLOW_MAP: &str = "{name: value, other: value}";
const FLOW_LIST: &str = "[one, two]";
const ITEMS: &str = "`- item`, with the items of one list in the same column";
const SPACES: &str = "spaces";
const QUOTES: &str = r#""text" or 'text', and nothing behind the closing quote"#;
const ESCAPES: &str = r#"\\, \", \n, \t or \u263a within "…"; no escapes at all within '…'"#;
const BLOCK: &str =
    "`name: |` at the end of a line, and the text below it, further in, with spaces";
const ANCHOR: &str = "`&name` before a value, and `*name` further down where it is repeated";
const COMMENT: &str =
    "a space before `#`, and nothing but comments between the lines of a text in quotes";
/// What to write in place of a tag.
pub(crate) const NO_TAG: &str = "the value without its tag";

/// What is wrong, and the accepted form.
pub(crate) fn words(kind: &ErrorKind) -> (String, &'static str) {
    use ErrorKind as Kind;
    let (wrong, accepted): (&str, &str) = match kind {
        Kind::UnclosedFlowCollection { open } => {
            let accepted = if *open == '[' { FLOW_LIST } else { FLOW_MAP };
            return (format!("`{open}` is not closed"), accepted);
        }
        Kind::MismatchedFlowCollectionEnd { open, close } => {
            let accepted = if *open == '[' { FLOW_LIST } else { FLOW_MAP };
            return (format!("`{open}` is closed by `{close}`"), accepted);
        }
        Kind::UnexpectedCharacter { character } => {
            let wrong = format!("{} cannot begin a value", quote(&character.to_string()));
            return (wrong, "a word, or text in quotes");
        }
        Kind::RecursionLimitExceeded => return (too_deep(), DEPTH),
        Kind::MisplacedFlowCollectionEnd => {
            ("a bracket is closed that was not opened", "{…} and […], each closed once")
        }
        Kind::UnexpectedEofFlowSequence => ("a list ends before its `]`", FLOW_LIST),
        Kind::UnexpectedEofFlowMapping | Kind::UnexpectedEofImplicitFlowMapping => {
            ("a mapping ends before its `}`", FLOW_MAP)
        }
        Kind::ExpectedFlowMappingSeparator => ("`,` or `}` is missing before this", FLOW_MAP),
        Kind::ExpectedFlowSequenceSeparator => ("`,` or `]` is missing before this", FLOW_LIST),
        Kind::FlowMappingValueAdjacentCollection | Kind::PlainScalarStartsWithDashFlowIndicator => {
            ("a space is missing before the bracket", FLOW_MAP)
        }
        Kind::UnexpectedEof
        | Kind::UnexpectedEofBlockMapping
        | Kind::UnexpectedEofBlockSequence => ("the file ends in the middle of a document", FIELDS),
        Kind::ExpectedBlockMappingKey => {
            ("this is neither a field of the mapping above nor outside of it", FIELDS)
        }
        Kind::SimpleKeyExpected | Kind::InvalidSimpleKey => {
            ("a field has no `:` behind its name, on the same line", FIELDS)
        }
        Kind::MappingValueNotAllowed
        | Kind::MappingKeyNotAllowed
        | Kind::InvalidColonPlacement
        | Kind::InvalidMappingValueWhitespace => {
            ("a `:` is where no field can begin; text that holds one is put in quotes", FIELDS)
        }
        Kind::InvalidIndentation | Kind::InvalidFlowScalarIndent => {
            ("this line begins too far to the left for what it continues", FIELDS)
        }
        Kind::ExpectedNodeContent => ("a value is missing here", FIELDS),
        Kind::ExpectedBlockSequenceEntry
        | Kind::BlockEntryInFlowCollection
        | Kind::BlockSequenceEntryNotAllowed
        | Kind::InvalidBlockEntryWhitespace => {
            ("this is neither an item of the list above nor outside of it", ITEMS)
        }
        Kind::TabNotAllowed
        | Kind::TabInBlockIndentation
        | Kind::TabInIndentation
        | Kind::TabInPlainScalar
        | Kind::TabAtBlockScalarStart => ("a tab where only spaces are read", SPACES),
        Kind::UnclosedQuotedScalar | Kind::DocumentIndicatorInQuotedScalar => {
            ("the quote is not closed", QUOTES)
        }
        Kind::InvalidQuotedScalarIndent => {
            ("text in quotes goes on too far to the left", "the whole text on one line")
        }
        Kind::InvalidTrailingSingleQuotedScalar | Kind::InvalidTrailingDoubleQuotedScalar => {
            ("something stands behind the closing quote", QUOTES)
        }
        Kind::UnknownQuotedScalarEscape
        | Kind::InvalidQuotedScalarHexEscape
        | Kind::InvalidLowSurrogateHexEscape
        | Kind::InvalidLowSurrogate
        | Kind::MissingLowSurrogate
        | Kind::UnpairedLowSurrogate
        | Kind::InvalidUnicodeEscape => ("`\\` is not followed by a character's code", ESCAPES),
        Kind::ZeroBlockScalarIndent
        | Kind::InvalidBlockScalarHeader
        | Kind::InvalidBlockScalarIndent => ("a text block is not written as one", BLOCK),
        Kind::CommentInterceptedScalar | Kind::CommentNotSeparated => {
            ("a comment is in the middle of a value", COMMENT)
        }
        Kind::UnknownAnchor => ("no anchor of this name stands above", ANCHOR),
        Kind::MissingAnchorOrAliasName => ("an anchor or alias has no name", ANCHOR),
        Kind::AnchorCountOverflow => ("it has too many anchors", "the values written out"),
        Kind::DirectiveDisallowed
        | Kind::DuplicateVersionDirective
        | Kind::UnsupportedYamlMajorVersion
        | Kind::DuplicateTagDirective
        | Kind::MissingDocumentEndBeforeDirective => {
            ("directives (`%…`) are not read: all is YAML 1.2", "no line that begins with `%`")
        }
        Kind::ExpectedDocumentStart | Kind::InvalidDocumentEnd => {
            ("something follows the end of a document", "`---` on a line before the next document")
        }
        Kind::BomInsideDocument => {
            ("a byte order mark is in the middle of the file", "UTF-8 text without it")
        }
        Kind::UndeclaredTagHandle
        | Kind::ExpectedTagBang
        | Kind::InvalidGlobalTagCharacter
        | Kind::InvalidTagTerminator
        | Kind::MissingTagUri
        | Kind::UnclosedVerbatimTag
        | Kind::InvalidTagEscape => ("tags (`!name`) have no meaning here", NO_TAG),
        // Rare, and said in the parser's words.
        other => return (other.to_string(), FIELDS),
    };
    (wrong.to_owned(), accepted)
}

/// What is said about a document that is nested too deeply.
pub(crate) fn too_deep() -> String {
    format!("nested more than {MAX_DEPTH} levels deep")
}

/// The accepted form beside it.
pub(crate) const DEPTH: &str = "the language itself needs eight levels of lists and mappings";

#[cfg(test)]
mod tests {
    use super::*;

    /// The parser's own words speak of what it was doing, and not to those who write files.
    #[test]
    fn common_mistakes_are_told_in_our_words() {
        for text in [
            "a: {b",
            "a: [b",
            "a: {b]",
            "a: b]",
            "a: \"b",
            "a: 'b' c",
            "a: \"\\q\"",
            "a: b: c",
            "a\nb: c",
            "a: @b",
            "a:\n\tb: c",
            "a: *b",
            "a: & b",
            "%YAML 1.1\n---\na: b",
            "a: |0\n b",
            "- a\nb: c",
            "a: b\n- c",
            "a: !!b!c!<d",
            "{a: b} c",
            "a: {b: c d: e}",
            "a: [b c: d e: f]",
            "a: b\n c\nd",
            "a: \"b\n---\nc\"",
            "a: [-, b]",
            " a: b\nc: d",
            "a: b #c\n  d",
        ] {
            let parser = granit_parser::Parser::new_from_str(text);
            let Some(error) = parser.filter_map(Result::err).next() else { continue };
            let (said, _) = words(error.kind());
            let foreign =
                ["while ", "expected", "scalar", "context", "EOF", "recursion", "collection"];
            assert!(foreign.iter().all(|word| !said.contains(word)), "{text:?}: {said}");
        }
    }
}
