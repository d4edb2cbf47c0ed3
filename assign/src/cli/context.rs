//! What every verb gets: a host to look at, and what is remembered about it.
//!
//! `--root` names the host: `/`, another tree, or a snapshot that was saved. A saved one tells of a
//! host and is none: whatever would change one is refused before it begins, and who has which
//! device on it is known only where its state was brought along.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use policies::Policy;
use sriov::facts::reader::Problem;
use sriov::saved::LONGEST;
use sriov::{HostRoot, HostSnapshot, Reason, Scope};

use super::Format;
use crate::failure::{Failure, OwnReason};
use crate::inputs::Inputs;
use crate::plan::{Plan, Reasons};
use crate::state::{Applied, DIRECTORY, Lease, Original, State};

/// What every verb gets.
#[derive(Debug)]
pub struct Context {
    /// The host; a tree without anything where `saved` is there instead.
    pub root: HostRoot,
    /// What is remembered about it.
    pub state: State,
    /// How results are written.
    pub format: Format,
    /// Whether disruptive steps are confirmed beforehand.
    pub yes: bool,
    saved: Option<HostSnapshot>,
    has_state: bool,
}

/// What a verb wants of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// To look at it: a saved snapshot will do.
    Facts,
    /// The host itself, to change it or to use it.
    Host,
}

impl Context {
    /// The context that the command line asks for.
    ///
    /// # Errors
    /// `root` is neither a directory nor a snapshot, or a snapshot where a host is wanted.
    pub fn new(
        root: &Path,
        state: Option<PathBuf>,
        format: Format,
        yes: bool,
        wants: Wants,
    ) -> Result<Context, Failure> {
        let saved = match wants {
            Wants::Nothing => None,
            Wants::Facts => saved(root)?,
            Wants::Host if is_file(root)? => return Err(no_host(root)),
            Wants::Host => None,
        };
        let has_state = saved.is_none() || state.is_some();
        let state = state.unwrap_or_else(|| root.join(DIRECTORY.trim_start_matches('/')));
        let root = HostRoot::at(root);
        Ok(Context { root, state: State::at(state), format, yes, saved, has_state })
    }

    /// Whether it is a saved host.
    pub fn is_saved(&self) -> bool {
        self.saved.is_some()
    }

    /// The host as it is now, or as it was when it was saved: then all of it, whatever the scope.
    pub fn snapshot(&self, scope: Scope) -> Cow<'_, HostSnapshot> {
        match &self.saved {
            Some(saved) => Cow::Borrowed(saved),
            None => Cow::Owned(self.look(scope)),
        }
    }

    /// The live host, with what is remembered of devices that vfio has where a plan may be made of it.
    fn look(&self, scope: Scope) -> HostSnapshot {
        let mut host = HostSnapshot::read_within(&self.root, scope);
        if matches!(scope, Scope::Planning | Scope::Whole)
            && let Err(failure) = self.state.recall(&self.root, &mut host)
        {
            // Whoever plans needs the state for more than this, and fails by it.
            let path = self.state.directory().to_owned();
            host.problems.push(Problem { path, cause: failure.message });
        }
        host
    }

    /// Leases that are alive. Of a saved host, no process can be asked: there, those of its boot.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>, Failure> {
        match &self.saved {
            None => self.state.leases(&self.root),
            Some(saved) if self.has_state => self.state.leases_of(&saved.platform.boot_id),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// Policies that were applied; none of a saved host without its state.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn applied(&self) -> Result<Vec<Applied>, Failure> {
        if self.has_state { self.state.applied() } else { Ok(Vec::new()) }
    }

    /// How devices were before they were touched on this boot; nothing of a saved host, whose
    /// devices cannot be compared with what is remembered of them.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn originals(&self, boot_id: &str) -> Result<Vec<Original>, Failure> {
        match &self.saved {
            None => self.state.originals(&self.root, boot_id),
            Some(_) => Ok(Vec::new()),
        }
    }

    /// The plan for `policies`.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn plan(&self, policies: &[Policy]) -> Result<Plan, Failure> {
        let inputs = self.inputs(policies)?;
        Ok(inputs.plan(&self.snapshot(Scope::Planning), policies, &[], Reasons::Few))
    }

    /// What planning needs beside the host. Of a saved host it is not known what its kernel has.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn inputs(&self, policies: &[Policy]) -> Result<Inputs, Failure> {
        match &self.saved {
            None => Inputs::read(&self.root, &self.state, policies),
            Some(_) => Ok(Inputs {
                leases: self.leases()?,
                applied: self.applied()?,
                previous: if self.has_state { self.state.choices()? } else { Vec::new() },
                ..Inputs::default()
            }),
        }
    }
}

/// Whether `--root` names a file, which can only be a snapshot; `-` is standard input.
fn is_file(root: &Path) -> Result<bool, Failure> {
    if root == Path::new("-") {
        return Ok(true);
    }
    match std::fs::metadata(root) {
        Ok(metadata) => Ok(!metadata.is_dir()),
        Err(error) => Err(unreadable(root, &error)),
    }
}

fn saved(root: &Path) -> Result<Option<HostSnapshot>, Failure> {
    if !is_file(root)? {
        return Ok(None);
    }
    let text = read(root).map_err(|error| unreadable(root, &error))?;
    let snapshot = HostSnapshot::from_json(&text).map_err(|error| {
        let message = format!("cannot be read as a host: {error}");
        Failure::bad_input(OwnReason::InvalidSnapshot, root.display(), message)
            .with_remedy(error.remedy())
    })?;
    Ok(Some(snapshot))
}

/// One byte more than a snapshot may have, for [`HostSnapshot::from_json`] to see it.
fn read(root: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = LONGEST as u64 + 1;
    if root == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(root)?.take(most).read_to_end(&mut text)?;
    }
    Ok(text)
}

fn unreadable(root: &Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot be read: {error}");
    Failure::bad_input(OwnReason::File, format!("--root {}", root.display()), message)
        .with_remedy("Name a directory with sys, proc and dev, or a saved snapshot.")
}

fn no_host(root: &Path) -> Failure {
    let message = "is a saved snapshot, which tells of a host and is none: it cannot be changed";
    Failure::bad_input(Reason::NotThisHost, root.display(), message).with_remedy(
        "Run this on the host itself, without --root; `assign plan` shows what it would do.",
    )
}
