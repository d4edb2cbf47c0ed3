//! `lab-change JSON` makes one change to the host it runs on, as somebody else's hand: with no plan, no
//! journal and no memory of it. It is how a test brings about what `assign` has to cope with.

use anyhow::{Context, Result};
use sriov::{Change, HostRoot};

fn main() -> Result<()> {
    let json = std::env::args().nth(1).context("usage: lab-change JSON")?;
    let change: Change = serde_json::from_str(&json).context("this is no change")?;
    change.perform(&HostRoot::live()).with_context(|| change.to_string())?;
    println!("{change}");
    Ok(())
}
