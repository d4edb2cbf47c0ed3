//! What the language is made of, as tables: one [`Mapping`] for each kind of mapping, with its fields,
//! the form of each and what it means. The reader ([`crate::read`]) takes documents apart by them,
//! and the schema ([`crate::schema`]) is written from them, so that neither can know a field that
//! the other does not.

/// A mapping of the language.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// What messages call it: "a pool", "`from`".
    pub what: &'static str,
    /// Its fields, in the order in which they are told.
    pub fields: &'static [Field],
    /// What holds among them.
    pub rules: &'static [Rule],
    /// Fields of the language that this version does not carry out yet.
    pub later: &'static [Later],
}

impl Mapping {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The field of this name that is for a later version.
    pub fn later(&self, name: &str) -> Option<&'static Later> {
        self.later.iter().find(|later| later.name == name)
    }

    /// The names of its fields.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }

    /// `{name: …, from: …}`, for messages.
    pub fn form(&self) -> String {
        let fields: Vec<String> = self.names().map(|name| format!("{name}: …")).collect();
        format!("{{{}}}", fields.join(", "))
    }
}

/// A field that the language has and this version does not carry out: refused, since who writes it
/// relies on it, and not in the schema, so that editors do not offer it.
#[derive(Debug)]
pub(crate) struct Later {
    /// Its name.
    pub name: &'static str,
    /// What it would do, to follow "it says".
    pub doc: &'static str,
}

/// A field for a later version.
pub(crate) const fn later(name: &'static str, doc: &'static str) -> Later {
    Later { name, doc }
}

/// A field of a mapping.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whether it must be there.
    pub needed: bool,
    /// What its value looks like.
    pub form: Form,
    /// A value, for messages and editors.
    pub example: &'static str,
    /// What it means when it is left out, where that is a value it can have.
    pub default: Option<&'static str>,
    /// What it means, for editors: whole sentences.
    pub doc: &'static str,
}

impl Field {
    /// A field that may be left out.
    pub const fn new(
        name: &'static str,
        form: Form,
        example: &'static str,
        doc: &'static str,
    ) -> Field {
        Field { name, needed: false, form, example, default: None, doc }
    }

    /// The same, and it must be there.
    pub const fn needed(self) -> Field {
        Field { needed: true, ..self }
    }

    /// The same, with what it is when it is left out.
    pub const fn or(self, default: &'static str) -> Field {
        Field { default: Some(default), ..self }
    }
}

/// What a value looks like.
#[derive(Debug)]
pub(crate) enum Form {
    /// A mapping.
    Map(&'static Mapping),
    /// A list of at least one mapping.
    List { of: &'static Mapping, most: usize },
    /// One of a few words.
    Words(&'static [Word]),
    /// A word that stands for a mapping, or the mapping.
    WordOr(Word, &'static Mapping),
    /// true or false, or a mapping that says more than true.
    TruthOr(&'static Mapping),
    /// A whole number in this range.
    Number(u64, u64),
    /// true or false.
    Truth,
    /// Text, of which more is said where it is read.
    Text(Text),
    /// Text, or a mapping in its place.
    TextOr(Text, &'static Mapping),
    /// A whole number, or text.
    NumberOr(Text),
    /// A mapping from numbers to numbers or text.
    Numbered(Numbered),
    /// Whatever it is, it is read elsewhere.
    Any,
}

/// A word with a meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    /// As it is written.
    pub text: &'static str,
    /// What it means, to follow a colon.
    pub doc: &'static str,
}

/// A word and its meaning.
pub(crate) const fn word(text: &'static str, doc: &'static str) -> Word {
    Word { text, doc }
}

/// A kind of text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    /// How it is written, for people.
    pub accepted: &'static str,
    /// The same for programs: a regular expression (ECMA-262) that matches what is accepted and, as
    /// far as such an expression can tell, nothing else.
    pub pattern: &'static str,
}

/// A mapping whose keys are numbers, each once, at least one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbered {
    /// What messages call a key.
    pub what: &'static str,
    /// The greatest key; the least is 0.
    pub last: u64,
    /// The same for programs: a regular expression (ECMA-262).
    pub pattern: &'static str,
    /// How each value is written; a whole number may stand without quotes.
    pub of: Text,
}

/// What holds among the fields of a mapping.
#[derive(Debug)]
pub(crate) enum Rule {
    /// The mapping is not empty.
    NotEmpty { message: &'static str, accepted: &'static str },
    /// At least one of these is there.
    OneOf { fields: &'static [&'static str], message: &'static str, accepted: &'static str },
    /// The first is there only if the second is.
    Needs { field: &'static str, also: &'static str, message: &'static str, accepted: &'static str },
    /// The first is not there beside the second.
    Apart {
        field: &'static str,
        beside: &'static str,
        message: &'static str,
        accepted: &'static str,
    },
}
