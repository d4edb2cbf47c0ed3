//! `assign man`: a manual page for each verb, from the same words as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::{Context, Format, examples, output};
use crate::failure::{Failure, OwnReason};

/// Arguments of `assign man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder to write them to; it must be there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// When what the pages say was last changed.
const DATE: &str = "2026-11-22";

/// Exit codes and what they mean.
const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "Done, or nothing to do."),
    ("1", "Failed; doctor: a problem was found."),
    ("2", "Bad input: the command line, a document, a device that is not there."),
    ("3", "Refused, to protect the host or isolation."),
    ("4", "Differences found (diff)."),
];

/// Files and what is in them.
const FILES: [(&str, &str); 4] = [
    ("/var/lib/assign", "Leases, applied policies, how devices were before; see --state."),
    ("/sys/bus/pci/devices", "Where devices are read and changed."),
    ("/dev/vfio", "Groups of devices that are bound for guests."),
    ("/dev/kvm", "What guests need."),
];

impl Man {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let mut command = super::command();
        command.build();
        let written = write_all(&command, "", &self.directory)?;
        output::value(context.format, &written)?;
        if context.format == Format::Table {
            let place = self.directory.display();
            output::text_out(&format!("{} manual pages written to {place}", written.len()))?;
        }
        Ok(0)
    }
}

/// Writes a page for `command` and for each verb below it; returns the files.
fn write_all(command: &Command, verb: &str, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let name = match verb {
        "" => "assign".to_owned(),
        verb => format!("assign-{}", verb.replace(' ', "-")),
    };
    let file = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    page(command, verb, &name, &mut text).and_then(|()| std::fs::write(&file, &text)).map_err(
        |error| {
            let message = format!("cannot be written: {error}");
            Failure::failed(OwnReason::File, file.display(), message)
                .with_remedy("Name a folder that is there and can be written to.")
        },
    )?;
    let mut files = vec![file];
    for below in command.get_subcommands().filter(|below| is_shown(below)) {
        let verb = format!("{verb} {}", below.get_name());
        files.extend(write_all(below, verb.trim_start(), directory)?);
    }
    Ok(files)
}

fn is_shown(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn page(command: &Command, verb: &str, name: &str, out: &mut Vec<u8>) -> io::Result<()> {
    let version = format!("assign {}", env!("CARGO_PKG_VERSION"));
    // The examples, exit codes and verbs have sections of their own here, as manual pages have them.
    let described = command.clone().after_help(None::<&str>);
    let page = Page::new(described).title(name.to_uppercase()).section("1").manual("assign");
    let page = page.source(version).date(DATE);
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        page.render_options_section(out)?;
    }
    let mut text = String::new();
    let verbs: Vec<&Command> = command.get_subcommands().filter(|below| is_shown(below)).collect();
    if !verbs.is_empty() {
        text.push_str(".SH COMMANDS\n");
    }
    for below in &verbs {
        let about = below.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!(".TP\n{}\n{}\n", reference(&page_of(name, below)), line(&about)));
    }
    text.push_str(".SH EXIT STATUS\n");
    text.push_str(&list(&EXIT_STATUS));
    text.push_str(".SH FILES\n");
    text.push_str(&list(&FILES));
    let examples = examples::of(verb);
    if !examples.is_empty() {
        text.push_str(".SH EXAMPLES\n");
        text.push_str(&list(examples));
    }
    text.push_str(".SH SEE ALSO\n");
    text.push_str(&see_also(command, verb, name));
    out.extend(text.bytes());
    let trimmed: String =
        String::from_utf8_lossy(out).lines().map(|line| format!("{}\n", line.trim_end())).collect();
    *out = trimmed.into_bytes();
    Ok(())
}

/// The name of a verb's page, from that of the page above it.
fn page_of(name: &str, below: &Command) -> String {
    format!("{name}-{}", below.get_name())
}

/// The pages around this one.
fn see_also(command: &Command, verb: &str, name: &str) -> String {
    let mut pages: Vec<String> = command
        .get_subcommands()
        .filter(|below| is_shown(below))
        .map(|b| page_of(name, b))
        .collect();
    let more: &[&str] = match verb {
        "" => &[],
        "devices" | "show" | "groups" | "topology" => {
            &["assign-devices", "assign-groups", "assign-show", "assign-topology"]
        }
        "bind" | "release" => &["assign-bind", "assign-devices", "assign-release"],
        "plan" | "apply" | "diff" | "remove" | "validate" => {
            &["assign-apply", "assign-diff", "assign-plan", "assign-remove", "assign-validate"]
        }
        "run" => &["assign-apply", "assign-validate"],
        "schema" => &["assign-validate"],
        verb if verb.starts_with("vf") => {
            &["assign-bind", "assign-vf", "assign-vf-create", "assign-vf-destroy", "assign-vf-list"]
        }
        _ => &[],
    };
    pages.extend(more.iter().map(|page| (*page).to_owned()));
    pages.push(if name == "assign" { "lspci(8)".to_owned() } else { "assign".to_owned() });
    pages.retain(|page| page != name);
    pages.sort();
    pages.dedup();
    let last = pages.len().saturating_sub(1);
    let line = |(at, page): (usize, &String)| {
        format!("{}{}\n", reference(page), if at < last { " ," } else { "" })
    };
    // In `.BR` the third word is set as the first, in bold; the comma belongs to the second.
    pages.iter().enumerate().map(line).map(|line| line.replace(") ,", "),")).collect()
}

/// A page's name in bold, with its section.
fn reference(page: &str) -> String {
    match page.strip_suffix("(8)") {
        Some(page) => format!(".BR {} (8)", line(page)),
        None => format!(".BR {} (1)", line(page)),
    }
}

/// Terms, each with what it means.
fn list(terms: &[(&str, &str)]) -> String {
    terms.iter().map(|(term, text)| format!(".TP\n.B {}\n{}\n", line(term), line(text))).collect()
}

/// A line of text for roff: a backslash is written as such, a hyphen can be copied, and no line
/// begins with what would be a request.
fn line(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
