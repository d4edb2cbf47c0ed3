//! `assign man`: a manual page for each verb, from the same words as `--help`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::{Context, Format, examples, output};
use crate::failure::{Failure, OwnReason};
use crate::time;

/// Arguments of `assign man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder to write them to; it must be there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

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
        let date = time::day(built());
        let written = write_all(&command, "", &date, &self.directory)?;
        output::value(context.format, &written)?;
        if context.format == Format::Table {
            let place = self.directory.display();
            output::text_out(&format!("{} manual pages written to {place}", written.len()))?;
        }
        Ok(0)
    }
}

/// When the program was built whose words these are: what a packager says
/// (<https://reproducible-builds.org/specs/source-date-epoch/>), or else the time of its file.
fn built() -> SystemTime {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let said = said.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let own = || std::env::current_exe().and_then(std::fs::metadata)?.modified();
    said.or_else(|| own().ok()).unwrap_or_else(SystemTime::now)
}

/// Writes a page for `command` and for each verb below it; returns the files.
fn write_all(
    command: &Command,
    verb: &str,
    date: &str,
    directory: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let name = match verb {
        "" => "assign".to_owned(),
        verb => format!("assign-{}", verb.replace(' ', "-")),
    };
    let file = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    page(command, verb, &name, date, &mut text)
        .and_then(|()| std::fs::write(&file, &text))
        .map_err(|error| {
            let message = format!("cannot be written: {error}");
            Failure::failed(OwnReason::File, file.display(), message)
                .with_remedy("Name a folder that is there and can be written to.")
        })?;
    let mut files = vec![file];
    for below in command.get_subcommands().filter(|below| is_shown(below)) {
        let verb = format!("{verb} {}", below.get_name());
        files.extend(write_all(below, verb.trim_start(), date, directory)?);
    }
    Ok(files)
}

fn is_shown(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn page(
    command: &Command,
    verb: &str,
    name: &str,
    date: &str,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let version = format!("assign {}", env!("CARGO_PKG_VERSION"));
    let page = Page::new(command.clone()).title(name.to_uppercase()).section("1");
    let page = page.manual("assign").source(version).date(date);
    page.render_title(out)?;
    page.render_name_section(out)?;
    out.extend(synopsis(command).bytes());
    page.render_description_section(out)?;
    for paragraph in examples::prose(verb) {
        out.extend(format!(".PP\n{}\n", line(paragraph)).bytes());
    }
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        let mut options = Vec::new();
        page.render_options_section(&mut options)?;
        out.extend(repeated(command, &String::from_utf8_lossy(&options)).bytes());
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

/// The options as they are written, with dots where an argument may be repeated.
fn repeated(command: &Command, options: &str) -> String {
    let mut options = options.to_owned();
    for argument in command.get_positionals() {
        let most = argument.get_num_args().map_or(1, |count| count.max_values());
        let name = argument.get_value_names().and_then(|names| names.first());
        let Some(name) = name.filter(|_| most > 1) else { continue };
        for (open, close) in [('<', '>'), ('[', ']')] {
            let written = format!("{open}\\fI{name}\\fR{close}\n");
            options = options.replace(&written, &format!("{}...\n", written.trim_end()));
        }
    }
    options
}

/// The ways to write a command, as `--help` shows them: what is to be replaced in italics.
fn synopsis(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or("assign");
    let usage = command.clone().render_usage().to_string();
    let way = |way: &str| {
        let rest = line(way.trim().trim_start_matches(name));
        let rest = rest.replace('<', "\\fI").replace('>', "\\fR");
        format!("\\fB{}\\fR{rest}\n", line(name))
    };
    let ways: Vec<String> = usage.trim_start_matches("Usage:").lines().map(way).collect();
    // One line each, however narrow the page: words are not spread over it.
    format!(".SH SYNOPSIS\n.ad l\n.nh\n{}.hy\n.ad b\n", ways.join(".br\n"))
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
        verb if verb.starts_with("vf") => &[
            "assign-bind",
            "assign-vf",
            "assign-vf-create",
            "assign-vf-destroy",
            "assign-vf-list",
            "assign-vf-set",
        ],
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
