//! The words of a GRUB script (manual of GRUB 2.12, 6.1 to 6.4).

/// A word, or what ends a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A word.
    Word(Word),
    /// A line break or a semicolon.
    End,
    /// A brace that stands alone.
    Open,
    /// The other one.
    Close,
}

/// A word as it is written: variables stand for what they are when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word {
    /// Its parts, one after the other.
    pub pieces: Vec<Piece>,
    /// Whether a part of it is in quotes, which make an empty word one as well.
    pub is_quoted: bool,
}

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A variable.
    Variable {
        /// Its name.
        name: String,
        /// Whether its value is one word, whatever is in it.
        is_quoted: bool,
    },
}

impl Word {
    /// The word itself, where it is no more than letters.
    pub fn plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] if !self.is_quoted => Some(text),
            _ => None,
        }
    }

    fn push(&mut self, c: char) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.push(c),
            _ => self.pieces.push(Piece::Text(c.to_string())),
        }
    }
}

/// Takes a script apart. Whatever it is, it has words; a quote that nothing closes ends with the text.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut word: Option<Word> = None;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                // The line goes on.
                Some('\n') | None => {}
                Some(c) => {
                    // Not a word with a meaning any more.
                    let word = word.get_or_insert_default();
                    word.is_quoted = true;
                    word.push(c);
                }
            },
            '\'' => {
                let word = word.get_or_insert_default();
                word.is_quoted = true;
                for c in chars.by_ref().take_while(|c| *c != '\'') {
                    word.push(c);
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                word.is_quoted = true;
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') | None => {}
                            Some(c @ ('"' | '\\' | '$')) => word.push(c),
                            Some(c) => {
                                word.push('\\');
                                word.push(c);
                            }
                        },
                        '$' => variable(&mut chars, word, true),
                        c => word.push(c),
                    }
                }
            }
            '$' => variable(&mut chars, word.get_or_insert_default(), false),
            '#' if word.is_none() => {
                chars.by_ref().find(|c| *c == '\n');
                tokens.push(Token::End);
            }
            ' ' | '\t' | '\r' => tokens.extend(word.take().map(token)),
            // Of what these mean, no menu makes use.
            '\n' | ';' | '&' | '|' => {
                tokens.extend(word.take().map(token));
                tokens.push(Token::End);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(token));
    tokens
}

fn token(word: Word) -> Token {
    match word.plain() {
        Some("{") => Token::Open,
        Some("}") => Token::Close,
        _ => Token::Word(word),
    }
}

/// What follows a dollar sign: a name, one in braces, or a single character such as `?`.
fn variable(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    word: &mut Word,
    is_quoted: bool,
) {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let name: String = match chars.peek() {
        Some('{') => {
            chars.next();
            chars.by_ref().take_while(|c| *c != '}').collect()
        }
        Some('?' | '#' | '*' | '@') => chars.next().into_iter().collect(),
        _ => std::iter::from_fn(|| chars.next_if(is_name)).collect(),
    };
    match name.is_empty() {
        true => word.push('$'),
        false => word.pieces.push(Piece::Variable { name, is_quoted }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Token {
        let pieces = vec![Piece::Text(text.to_owned())];
        Token::Word(Word { pieces, is_quoted: false })
    }

    #[test]
    fn words_end_where_grub_ends_them() {
        let found = tokens("linux /vmlinuz ro # quiet\n}; fi");
        let expected = [
            text("linux"),
            text("/vmlinuz"),
            text("ro"),
            Token::End,
            Token::Close,
            Token::End,
            text("fi"),
        ];
        assert_eq!(found, expected);
        // The brace of a variable is none.
        assert_eq!(tokens("${a}").len(), 1);
        assert_eq!(tokens("a\\\nb"), [text("ab")]);
    }

    #[test]
    fn quotes_keep_what_is_in_them() {
        let [Token::Word(word)] = &tokens(r#"'a $b'"c ${d}\"e"$f"#)[..] else { panic!("one word") };
        assert!(word.is_quoted);
        let text = |text: &str| Piece::Text(text.to_owned());
        let variable = |name: &str, is_quoted| Piece::Variable { name: name.to_owned(), is_quoted };
        let expected = [text("a $bc "), variable("d", true), text("\"e"), variable("f", false)];
        assert_eq!(word.pieces, expected);
    }

    #[test]
    fn whatever_is_not_closed_ends_with_the_text() {
        for text in ["'", "\"", "\"$", "${", "$", "\\", "\"\\", "'a", "#", "{", "a${b"] {
            tokens(text);
        }
    }
}
