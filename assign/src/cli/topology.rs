//! `assign topology`: the host as a picture, as text or as data.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use sriov::{HostSnapshot, Scope};

use super::{Context, Format, devices, output};
use crate::failure::{Failure, OwnReason};
use crate::time;
use crate::topology::{Standings, Topology as Tree, svg, tree};

/// Arguments of `assign topology`.
#[derive(Debug, Args)]
pub struct Topology {
    /// How it is drawn.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Drawing,
    /// Write it to this file instead of standard output.
    #[arg(short = 'O', long = "output-file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The picture's title [default: PCI topology]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

/// How a topology is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Drawing {
    /// A tree of lines.
    #[default]
    Text,
    /// A picture: SVG 1.1.
    Svg,
}

impl Topology {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Whole);
        let leases = context.leases()?;
        let standings = Standings::new(&snapshot, &leases);
        let topology = Tree::new(&snapshot, &standings);
        if self.format == Drawing::Text && self.file.is_none() {
            output::value(context.format, &tree::nested(&topology))?;
            if context.format == Format::Table {
                devices::show_tree(&tree::rows(&topology, false)).print()?;
            }
            return Ok(0);
        }
        let text = match self.format {
            Drawing::Svg => {
                let title = self.title.as_deref().unwrap_or("PCI topology");
                svg::draw(&snapshot, &topology, title, &details(context, &snapshot))
            }
            Drawing::Text if context.format == Format::Table => {
                let lines = devices::show_tree(&tree::rows(&topology, false)).lines(None);
                let plain = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string());
                plain.map(|line| line + "\n").collect()
            }
            Drawing::Text => output::serialized(context.format, &tree::nested(&topology))?,
        };
        match &self.file {
            Some(file) => std::fs::write(file, text).map_err(|error| {
                Failure::failed(
                    OwnReason::File,
                    file.display(),
                    format!("cannot be written: {error}"),
                )
            })?,
            None => output::text_out(text.trim_end())?,
        }
        Ok(0)
    }
}

/// The kernel; of the live host also the time, which a recorded tree does not have.
fn details(context: &Context, snapshot: &HostSnapshot) -> Vec<String> {
    let kernel = snapshot.platform.kernel.as_str();
    let kernel = (!kernel.is_empty()).then(|| format!("Linux {kernel}"));
    let time = context.root.is_live().then(|| time::utc(SystemTime::now()));
    kernel.into_iter().chain(time).collect()
}
