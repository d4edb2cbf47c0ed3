//! `assign apply --all`: every policy of the folder of this host, as the unit for systemd does at each
//! boot.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use policies::{Error, Errors, Policy, Source};

use super::super::{Context, Format, error, output};
use crate::apply::all::{self, All};
use crate::failure::{Failure, OwnReason};

/// Where policies are, below the root, unless told otherwise.
pub const FOLDER: &str = "etc/assign";

/// Applies all that is in `folder`.
///
/// # Errors
/// The gravest thing that went wrong; all of them are told.
pub fn run(context: &Context, folder: Option<&Path>) -> Result<u8, Failure> {
    let folder = folder.map_or_else(|| context.root.directory().join(FOLDER), Path::to_owned);
    let (policies, mut failures) = read(&folder)?;
    let confirm = |plan: &_| super::confirm(context, plan);
    let mut done = all::apply(&context.root, &context.state, &policies, &confirm)?;
    done.failures.splice(0..0, failures.drain(..));
    output::value(context.format, &done)?;
    if context.format == Format::Table {
        show(context, &done, &folder)?;
    }
    let All { mut failures, .. } = done;
    match failures.is_empty() {
        true => Ok(0),
        false => {
            let first = failures.remove(0);
            for failure in &failures {
                error::print(failure, context.format);
            }
            Err(first)
        }
    }
}

fn show(context: &Context, done: &All, folder: &Path) -> Result<(), Failure> {
    let nothing = match (done.policies.len(), done.failures.len()) {
        (0, 0) => format!("nothing to do: {} holds no policy", folder.display()),
        (0, _) => "no policy could be applied".to_owned(),
        _ => format!("nothing to do: the host is as {} says", folder.display()),
    };
    super::show(context, &done.report, &nothing)?;
    match done.policies.is_empty() {
        true => Ok(()),
        false => output::text_out(&format!("applied: {}", done.policies.join(", "))),
    }
}

/// The policies of a folder. A file with errors keeps those of other files from nothing: its errors
/// are told. So are files that contradict each other, and none of these is read. A folder that is not
/// there, or empty, has none.
///
/// # Errors
/// The folder cannot be listed.
pub fn read(folder: &Path) -> Result<(Vec<Policy>, Vec<Failure>), Failure> {
    let mut failures = Vec::new();
    let mut sources = Vec::new();
    for file in yaml_files(folder)? {
        let read = policies::sources(&[file]);
        match read.and_then(|source| policies::parse(&source).map(|_| source)) {
            Ok(source) => sources.extend(source),
            Err(errors) => failures.push(errors.into()),
        }
    }
    if sources.is_empty() {
        return Ok((Vec::new(), failures));
    }
    match policies::parse(&sources) {
        Ok(documents) => Ok((documents.policies, failures)),
        Err(errors) => {
            let agreeing = agreeing(sources, &errors, &mut failures);
            match policies::parse(&agreeing) {
                Ok(documents) => Ok((documents.policies, failures)),
                Err(errors) => {
                    failures.push(errors.into());
                    Ok((Vec::new(), failures))
                }
            }
        }
    }
}

/// Those of `sources`, each right by itself, that say nothing against another one. Of two that do,
/// neither stays: the later one is not wrong, and the earlier one is not right for its name. `errors`
/// is what came of reading all together, and names the later ones.
fn agreeing(sources: Vec<Source>, errors: &Errors, failures: &mut Vec<Failure>) -> Vec<Source> {
    let later: BTreeSet<&str> = errors.iter().map(Error::file).collect();
    let mut out = BTreeSet::new();
    for (at, second) in sources.iter().enumerate() {
        if !later.contains(second.name.as_str()) {
            continue;
        }
        for first in sources.iter().take(at) {
            let Err(errors) = policies::parse(&[first.clone(), second.clone()]) else { continue };
            out.extend([first.name.clone(), second.name.clone()]);
            failures.extend(errors.iter().take(1).map(|error| contradiction(first, error)));
        }
    }
    // What a pair has against each other is all there is, as names and pools are compared by twos.
    sources.into_iter().filter(|source| !out.contains(&source.name)).collect()
}

fn contradiction(first: &Source, error: &Error) -> Failure {
    let second = match error.line() {
        Some(line) => format!("{}:{line}", error.file()),
        None => error.file().to_owned(),
    };
    let message = format!("does not go together with {}: {}", first.name, error.message());
    Failure::bad_input(OwnReason::InvalidDocument, second, message).with_remedy(
        "Neither file was applied, since neither wins by its name: change or remove one of them.",
    )
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: &std::io::Error| {
        let message = format!("cannot be listed: {error}");
        Failure::failed(OwnReason::File, folder.display(), message)
            .with_remedy("Run assign as root, or name another folder with --config.")
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| failed(&error))?.path();
        let is_yaml = file.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if is_yaml && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
