//! How a command line may go on. What an argument takes is told by its value's name, the one that
//! `--help` shows: DEVICE, PF, DRIVER, FILE and so on.

use std::fmt;

use clap::{Arg, ArgAction, Command};

use super::candidates::{Host, Kind};
use crate::cli::output::text;

/// What may follow.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the shell completes on its own.
    pub files: Files,
    /// The words, each with what it is.
    pub words: Vec<(String, String)>,
}

/// What the shell completes on its own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Nothing.
    #[default]
    None,
    /// Files.
    Any,
    /// Folders.
    Folders,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.files {
            Files::None => "words",
            Files::Any => "files",
            Files::Folders => "folders",
        })?;
        for (word, about) in &self.words {
            let (word, about) = (text::printable(word), text::printable(about));
            write!(f, "\n{word}\t{about}")?;
        }
        Ok(())
    }
}

/// Where on the line the last word is.
struct Place<'a> {
    command: &'a Command,
    /// The option whose value is being typed.
    option: Option<&'a Arg>,
    /// Positional arguments before it.
    positions: usize,
    /// `--` was typed: no option follows.
    only_values: bool,
    root: String,
    state: Option<String>,
}

/// How the line may go on; the last of `words` is being typed.
pub fn complete(command: &Command, words: &[String]) -> Answer {
    let Some((word, before)) = words.split_last() else { return Answer::default() };
    let mut place = Place {
        command,
        option: None,
        positions: 0,
        only_values: false,
        root: "/".to_owned(),
        state: None,
    };
    for word in before {
        place.step(word);
    }
    let mut answer = place.answer(word, before);
    answer.words.retain(|(value, _)| value.starts_with(word.as_str()));
    answer
}

impl<'a> Place<'a> {
    fn step(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            self.remember(option, word);
        } else if self.only_values {
            self.positions += 1;
        } else if word == "--" {
            self.only_values = true;
        } else if let Some(name) = word.strip_prefix("--") {
            match name.split_once('=') {
                Some((name, value)) => {
                    if let Some(option) = self.long(name) {
                        self.remember(option, value);
                    }
                }
                None => self.option = self.long(name).filter(|option| takes_value(option)),
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            // A letter that takes a value takes the rest of the word, or the next one.
            for (at, letter) in letters.char_indices() {
                let Some(option) = self.short(letter).filter(|option| takes_value(option)) else {
                    continue;
                };
                let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                match rest.is_empty() {
                    true => self.option = Some(option),
                    false => self.remember(option, rest),
                }
                break;
            }
        } else if let Some(next) = subcommand(self.command, word) {
            self.command = next;
            self.positions = 0;
        } else {
            self.positions += 1;
        }
    }

    fn remember(&mut self, option: &Arg, value: &str) {
        match option.get_long() {
            Some("root") => self.root = value.to_owned(),
            Some("state") => self.state = Some(value.to_owned()),
            _ => {}
        }
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|argument| argument.get_long() == Some(name))
    }

    fn short(&self, letter: char) -> Option<&'a Arg> {
        self.command.get_arguments().find(|argument| argument.get_short() == Some(letter))
    }

    fn answer(&self, word: &str, before: &[String]) -> Answer {
        if let Some(option) = self.option {
            return self.values(option, "", word, before);
        }
        if !self.only_values && word.starts_with('-') {
            let assigned = word.strip_prefix("--").and_then(|rest| rest.split_once('='));
            return match assigned {
                Some((name, value)) => match self.long(name) {
                    Some(option) => self.values(option, &format!("--{name}="), value, before),
                    None => Answer::default(),
                },
                None => self.options(before),
            };
        }
        let commands = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut words: Vec<(String, String)> = commands
            .map(|command| (command.get_name().to_owned(), about(command.get_about())))
            .collect();
        words.retain(|_| self.positions == 0 && !self.only_values);
        let mut positionals = self.command.get_positionals();
        let at = self.command.get_positionals().count().saturating_sub(1).min(self.positions);
        let Some(positional) = positionals.nth(at) else {
            return Answer { files: Files::None, words };
        };
        if self.positions > at && !is_repeated(positional) {
            return Answer::default();
        }
        let mut answer = self.values(positional, "", word, before);
        answer.words.extend(words);
        answer
    }

    /// Options that were not given yet, or may be given again.
    fn options(&self, before: &[String]) -> Answer {
        let mut words = Vec::new();
        for argument in self.command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(long) = argument.get_long() else { continue };
            let long = format!("--{long}");
            let given = before.iter().any(|word| {
                *word == long || word.split_once('=').is_some_and(|(name, _)| name == long)
            });
            if !given || is_repeated(argument) {
                words.push((long, about(argument.get_help())));
            }
        }
        words.sort();
        Answer { files: Files::None, words }
    }

    fn values(&self, argument: &Arg, prefix: &str, word: &str, before: &[String]) -> Answer {
        let mut answer = Answer::default();
        for value in argument.get_possible_values() {
            if takes_value(argument) && !value.is_hide_set() {
                answer.words.push((value.get_name().to_owned(), about(value.get_help())));
            }
        }
        let names = argument.get_value_names().unwrap_or_default();
        for name in names.iter().flat_map(|name| name.as_str().split('|')) {
            match name {
                "FILE" => answer.files = Files::Any,
                "DIR" => answer.files = Files::Folders,
                _ => {
                    let Some(kind) = Kind::named(name) else { continue };
                    let host = Host::new(&self.root, self.state.as_deref());
                    answer.words.extend(host.candidates(kind, word));
                }
            }
        }
        if is_repeated(argument) {
            answer.words.retain(|(value, _)| !before.contains(value));
        }
        for (value, _) in &mut answer.words {
            value.insert_str(0, prefix);
        }
        answer
    }
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

fn is_repeated(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append | ArgAction::Count)
}

/// By its name, or by the beginning of one only.
fn subcommand<'a>(command: &'a Command, word: &str) -> Option<&'a Command> {
    command.find_subcommand(word).or_else(|| {
        let mut fits = command
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name().starts_with(word));
        fits.next().filter(|_| fits.next().is_none())
    })
}
