//! A GRUB script as statements. Whatever is out of place is passed over: a menu that GRUB shows is
//! read, and one that it would not show may be.

use std::rc::Rc;

use super::words::{Token, Word, tokens};

/// Deepest nesting.
const DEEPEST: usize = 32;

/// A piece of a script.
#[derive(Debug)]
pub enum Statement {
    /// A command with its arguments: at least one word.
    Command(Vec<Word>),
    /// Conditions with what is done where they hold, in their order, and what is done where none does.
    If {
        /// Each condition is a list of which the last one decides.
        arms: Vec<(Vec<Statement>, Vec<Statement>)>,
        /// After `else`.
        otherwise: Vec<Statement>,
    },
    /// An entry of the menu, or a menu below it.
    Entry {
        /// `menuentry` or `submenu` with its arguments.
        words: Vec<Word>,
        /// What it does.
        body: Rc<Vec<Statement>>,
    },
}

/// Reads a script.
///
/// # Errors
/// It is nested too deeply.
pub fn parse(text: &str) -> Result<Vec<Statement>, String> {
    let mut parser = Parser { tokens: tokens(text).into_iter().peekable(), depth: 0 };
    let mut all = Vec::new();
    loop {
        all.extend(parser.list(&[], false)?);
        // What ended it has no beginning.
        if parser.tokens.next().is_none() {
            return Ok(all);
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    /// Statements up to one of the words `ends`, or up to a brace where `closes`: neither is taken.
    fn list(&mut self, ends: &[&str], closes: bool) -> Result<Vec<Statement>, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        let mut list = Vec::new();
        while let Some(token) = self.tokens.peek() {
            match token {
                Token::End | Token::Open => {
                    self.tokens.next();
                }
                Token::Close if closes => break,
                Token::Close => {
                    self.tokens.next();
                }
                Token::Word(word) => match word.plain().map(str::to_owned) {
                    Some(word) if ends.contains(&word.as_str()) => break,
                    word => list.extend(self.statement(word.as_deref(), ends)?),
                },
            }
        }
        self.depth -= 1;
        Ok(list)
    }

    /// One that begins with this word.
    fn statement(
        &mut self,
        first: Option<&str>,
        ends: &[&str],
    ) -> Result<Option<Statement>, String> {
        match first {
            Some("if") => {
                self.tokens.next();
                self.conditional().map(Some)
            }
            Some("menuentry" | "submenu") => {
                let words = self.words();
                let body = Rc::new(self.braces()?);
                Ok(Some(Statement::Entry { words, body }))
            }
            // What a function does is done where it is called, and none is that counts here.
            Some("function") => {
                self.words();
                self.braces()?;
                Ok(None)
            }
            Some("while" | "until" | "for") => {
                self.tokens.next();
                self.list(&["done"], false)?;
                self.tokens.next();
                Ok(None)
            }
            _ => {
                let words = self.words();
                // A word that ends nothing here, such as `then` without `if`.
                debug_assert!(!words.is_empty() || !ends.is_empty());
                Ok((!words.is_empty()).then_some(Statement::Command(words)))
            }
        }
    }

    /// The words of a command.
    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) =
            self.tokens.next_if(|token| matches!(token, Token::Word(_)))
        {
            words.push(word);
        }
        words
    }

    /// What is in braces, which may begin in the next line.
    fn braces(&mut self) -> Result<Vec<Statement>, String> {
        while self.tokens.next_if_eq(&Token::End).is_some() {}
        if self.tokens.next_if_eq(&Token::Open).is_none() {
            return Ok(Vec::new());
        }
        let list = self.list(&[], true)?;
        self.tokens.next();
        Ok(list)
    }

    /// After `if`, up to its `fi`.
    fn conditional(&mut self) -> Result<Statement, String> {
        const BRANCHES: [&str; 3] = ["elif", "else", "fi"];
        let (mut arms, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let condition = self.list(&["then"], true)?;
            self.take("then");
            arms.push((condition, self.list(&BRANCHES, true)?));
            if !self.take("elif") {
                break;
            }
        }
        if self.take("else") {
            otherwise = self.list(&["fi"], true)?;
        }
        self.take("fi");
        Ok(Statement::If { arms, otherwise })
    }

    /// Takes this word, if it comes next.
    fn take(&mut self, wanted: &str) -> bool {
        let is = |token: &Token| matches!(token, Token::Word(word) if word.plain() == Some(wanted));
        self.tokens.next_if(is).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_place_is_passed_over() {
        for text in
            ["}", "fi", "then fi else", "{ { }", "if", "if [ a ]; then", "menuentry", "submenu a {"]
        {
            parse(text).expect(text);
        }
        let list = parse("} }\nset a=b").expect("a script");
        assert!(matches!(&list[..], [Statement::Command(words)] if words.len() == 2), "{list:?}");
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&"if ".repeat(10_000)).is_err());
        assert!(parse(&"submenu a { ".repeat(10_000)).is_err());
        assert!(parse(&"if a; then b; fi\n".repeat(10_000)).is_ok());
    }
}
