//! A command line that cannot be meant: told as every other error is, with the thing, the cause and
//! the remedy, for people and for programs.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::output::text;
use crate::failure::{Failure, OwnReason};

/// Longest word of the command line that is repeated.
const LONGEST: usize = 60;

/// What is wrong with these words of a command line, the program's name among them.
pub fn failure(error: &Error, words: &[String]) -> Failure {
    let mut command = super::command();
    command.build();
    let command = meant(&command, words);
    let name = command.get_bin_name().unwrap_or("assign").to_owned();
    let (message, hint) = told(error);
    let help = format!("`{name} --help` says more.");
    let remedy = match hint {
        Some(hint) => format!("{hint} {help}"),
        None if command.has_subcommands() => help,
        None => format!("Write {}; {help}", usage(command)),
    };
    // The message begins with the program's name as it is.
    let thing = name.strip_prefix("assign ").unwrap_or("command line");
    Failure::bad_input(OwnReason::Usage, thing, text::printable(&message))
        .with_remedy(text::printable(&remedy))
}

/// The command that the words name, as far as they name one.
fn meant<'a>(command: &'a Command, words: &[String]) -> &'a Command {
    let mut command = command;
    let mut is_value = true;
    for word in words {
        let value = std::mem::replace(
            &mut is_value,
            matches!(word.as_str(), "-o" | "--output" | "--root" | "--state"),
        );
        if value || word.starts_with('-') {
            continue;
        }
        let mut below = command.get_subcommands().filter(|one| one.get_name().starts_with(word));
        let exact = command.get_subcommands().find(|one| one.get_name() == word);
        match (exact, below.next(), below.next()) {
            (Some(next), _, _) | (None, Some(next), None) => command = next,
            _ => return command,
        }
    }
    command
}

/// How a command is written; each way, if there are more.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let ways: Vec<String> = usage
        .trim_start_matches("Usage:")
        .lines()
        .map(|line| format!("`{}`", line.trim()))
        .collect();
    ways.join(" or ")
}

/// What is wrong, without a full stop, and what may have been meant.
fn told(error: &Error) -> (String, Option<String>) {
    let strings = |kind| error.get(kind).map(strings).unwrap_or_default();
    let argument = strings(ContextKind::InvalidArg);
    let first = argument.first().map(|argument| shown(argument)).unwrap_or_default();
    let value = strings(ContextKind::InvalidValue).concat();
    let suggested = |kind: ContextKind| {
        let words = strings(kind);
        (!words.is_empty()).then(|| format!("Did you mean {}?", list(&words, "or")))
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let mut lacking: Vec<String> =
                argument.iter().map(|argument| shown(argument)).collect();
            // What has to be there before that of which one is enough.
            lacking.sort_by_key(|one| one.contains(' '));
            (format!("lacks {}", list(&lacking, "and")), None)
        }
        ErrorKind::UnknownArgument => {
            let what = if first.starts_with('-') { "option" } else { "argument" };
            (format!("takes no {what} {}", quoted(&first)), suggested(ContextKind::SuggestedArg))
        }
        ErrorKind::InvalidSubcommand => {
            let word = quoted(&strings(ContextKind::InvalidSubcommand).concat());
            (format!("has no command {word}"), suggested(ContextKind::SuggestedSubcommand))
        }
        ErrorKind::ArgumentConflict => {
            let prior: Vec<String> =
                strings(ContextKind::PriorArg).iter().map(|argument| shown(argument)).collect();
            let message = match prior.as_slice() {
                [] => format!("does not take {first} with what else is there"),
                [prior] if *prior == first => format!("takes {first} once only"),
                prior => format!("takes {first} or {}, and not both", list(prior, "or")),
            };
            (message, None)
        }
        ErrorKind::InvalidValue if value.is_empty() => (format!("{first} needs a value"), None),
        ErrorKind::InvalidValue => {
            let known = strings(ContextKind::ValidValue);
            let known = match known.is_empty() {
                true => String::new(),
                false => format!(": it is {}", list(&known, "or")),
            };
            let message = format!("{first} cannot be {}{known}", quoted(&value));
            (message, suggested(ContextKind::SuggestedValue))
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("{first} cannot be {}{why}", quoted(&value));
            (message.trim_end_matches('.').to_owned(), None)
        }
        ErrorKind::InvalidUtf8 => ("a word of it is not text (UTF-8)".to_owned(), None),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ("lacks the name of a command".to_owned(), None)
        }
        // Nothing here is declared so that the other kinds can occur.
        _ => {
            let text = error.render().to_string();
            let line = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
            (line.trim_end_matches('.').to_owned(), None)
        }
    }
}

fn strings(value: &ContextValue) -> Vec<String> {
    match value {
        ContextValue::String(text) => vec![text.clone()],
        ContextValue::Strings(texts) => texts.clone(),
        ContextValue::StyledStr(text) => vec![text.to_string()],
        ContextValue::StyledStrs(texts) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

/// An argument as it is called: `--file <FILE>` is `--file`, `<VF>...` is VF, and of a group any one
/// is meant.
fn shown(argument: &str) -> String {
    let argument = argument.trim_end_matches("...").trim();
    let bare = ["<>", "[]"].iter().find_map(|pair| {
        let (open, close) = pair.split_at(1);
        argument.strip_prefix(open)?.strip_suffix(close)
    });
    let members: Vec<String> = alternatives(bare.unwrap_or(argument))
        .iter()
        .filter_map(|member| member.split_whitespace().next())
        .map(|member| member.trim_end_matches("...").to_owned())
        .collect();
    match members.as_slice() {
        [one] => one.clone(),
        members => list(members, "or"),
    }
}

/// What stands between bars that no bracket is around.
fn alternatives(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    text.split(|c: char| {
        match c {
            '<' | '[' => depth += 1,
            '>' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '|' && depth == 0
    })
    .collect()
}

/// A word that somebody wrote, in quotes, and not longer than is good for a message.
fn quoted(word: &str) -> String {
    let word: String = word.chars().take(LONGEST).collect();
    format!("{word:?}")
}

/// `a`, `a or b`, `a, b or c`.
fn list(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a command line.
    fn said(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = super::super::command().try_get_matches_from(&words).expect_err("wrong");
        failure(&error, &words).to_string()
    }

    #[test]
    fn what_is_lacking_is_named_with_how_it_is_written() {
        assert_eq!(
            said("assign vf set"),
            "vf set: lacks VF and --mac, --vlan, --qos, --protocol, --trust, --spoof-check, \
             --link-state, --min-rate, --max-rate or --msix. Write `assign vf set [OPTIONS] <VF>...`; \
             `assign vf set --help` says more."
        );
        assert_eq!(
            said("assign apply"),
            "apply: lacks --file, --all or PLAN. Write `assign apply [OPTIONS] --file \
             <FILE>...` or `assign apply [OPTIONS] --all` or `assign apply [OPTIONS] <PLAN>`; \
             `assign apply --help` says more."
        );
        assert_eq!(
            said("assign vf create eth0"),
            "vf create: lacks N. Write `assign vf create [OPTIONS] <PF> <N>`; `assign vf \
             create --help` says more."
        );
    }

    #[test]
    fn what_excludes_each_other_is_told_as_such() {
        assert!(
            said("assign apply -f a.yaml --all").contains("takes --file or --all, and not both")
        );
        assert!(said("assign apply -f a.yaml x").contains("takes --file or PLAN, and not both"));
    }

    #[test]
    fn what_nobody_knows_is_repeated_with_what_may_be_meant() {
        let wrong = said("assign devcies");
        assert!(
            wrong.starts_with("command line: has no command \"devcies\". Did you mean "),
            "{wrong}"
        );
        let wrong = said("assign -o json plan --flie x");
        assert!(wrong.starts_with("plan: takes no option \"--flie\""), "{wrong}");
        let wrong = said("assign devices -o xml");
        assert!(wrong.contains("--output cannot be \"xml\": it is table, json or yaml"), "{wrong}");
        let wrong = said("assign vf set eth0/0 --mac 01:00:5e:00:00:01");
        assert!(wrong.contains("--mac cannot be \"01:00:5e:00:00:01\": "), "{wrong}");
        let wrong = said("assign vf create eth0 0");
        assert!(wrong.contains("N cannot be \"0\": "), "{wrong}");
        assert!(!said("assign plan \u{1b}[2J").contains('\u{1b}'));
        let wrong = said("assign devices --root");
        assert!(wrong.contains("--root needs a value"), "{wrong}");
    }
}
