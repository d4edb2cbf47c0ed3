//! Why a step is made, for those who ask.

use sriov::{Change, HostSnapshot};

use crate::state::Step;

/// The reason of one step, as the end of a sentence that begins with the step; `None` where the step
/// says it all.
pub(super) fn why(step: &Step, host: &HostSnapshot) -> Option<String> {
    let policy = &step.policy;
    if step.returns {
        return Some(format!("policy {policy} no longer wants it"));
    }
    Some(match step.change.plain() {
        Change::SetAcceptRa { to: 0, .. } => {
            "the host is not to join a network that only its guests are on".to_owned()
        }
        Change::SetLink { to: true, .. } => {
            "VFs do not answer below an interface that is down".to_owned()
        }
        Change::SetAutoprobe { to: false, .. } => {
            "none is to claim a VF before it has its own driver".to_owned()
        }
        Change::SetAutoprobe { to: true, .. } => "so it was before".to_owned(),
        Change::SetVfCount { pf, to: 0, .. } => {
            let carried = host
                .function(*pf)
                .map_or(0, |pf| pf.sriov.as_ref().map_or(0, |facts| facts.present));
            format!(
                "policy {policy} wants another number than {carried}, and the kernel goes by way of none"
            )
        }
        Change::SetVfCount { .. } => format!("policy {policy} wants them"),
        Change::SetNvmePrimary { .. } => {
            "its VFs need queues and interrupts that it has itself".to_owned()
        }
        Change::SetNvmeSecondary { to, .. } if to.online => {
            "no driver can begin with its VF before".to_owned()
        }
        Change::RememberVf { .. } => "it has that again should a later step fail".to_owned(),
        Change::Bind { .. } => format!("policy {policy} gives it to guests"),
        Change::SetVfMac { .. } => {
            format!("policy {policy} derives it from the card and the VF: it stays the same")
        }
        Change::SetVf { .. } => format!("policy {policy} says so"),
        _ => return None,
    })
}
