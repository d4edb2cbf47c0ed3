//! `assign vf set`: what a PF sets for its VFs.

use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum};
use sriov::facts::net;
use sriov::{
    Binding, Change, HostSnapshot, LinkState, MacAddress, Rate, Reason, Step, Target, VfSetting,
    VfSettings, Vlan, VlanProtocol, act, isolation, usage,
};

use super::super::{Context, apply, device};
use super::{Found, find_vf};
use crate::apply::Operation;
use crate::apply::policies::Report;
use crate::failure::{Failure, OwnReason};
use crate::plan::vfs;
use crate::state::Lease;

/// Arguments of `assign vf set`.
#[derive(Debug, Args)]
#[command(
    // The settings one by one would make a line of 240 columns.
    override_usage = "assign vf set [OPTIONS] <VF>...",
    group(ArgGroup::new("setting").required(true).multiple(true).args([
        "mac", "vlan", "qos", "protocol", "trust", "spoof_check", "link_state", "min_rate",
        "max_rate", "msix",
    ])),
)]
pub struct Set {
    /// VFs: PF/NUMBER, PCI addresses, or names of their interfaces.
    #[arg(value_name = "VF", required = true)]
    vfs: Vec<String>,
    /// Its address, for one VF only; `none` lets its driver choose.
    #[arg(long, value_name = "MAC|none")]
    mac: Option<MacChoice>,
    /// The VLAN its frames are put into, 1 to 4094, with priority and protocol if wanted.
    #[arg(long, value_name = "ID[:QOS[:PROTO]]|none")]
    vlan: Option<String>,
    /// Priority of its frames in that VLAN, 0 to 7.
    #[arg(long, value_name = "QOS", value_parser = clap::value_parser!(u8).range(0..=7))]
    qos: Option<u8>,
    /// How the VLAN's tag is written: 802.1Q, or 802.1ad for a provider's tag.
    #[arg(long, value_name = "PROTO")]
    protocol: Option<VlanProtocol>,
    /// Whether it may do what only trusted VFs may, such as listening to everything.
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    trust: Option<Switch>,
    /// Whether frames from another address than its own are dropped.
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    spoof_check: Option<Switch>,
    /// Whether its link follows the PF's (auto), is always up (enable) or down (disable).
    #[arg(long, value_name = "auto|enable|disable", hide_possible_values = true)]
    link_state: Option<LinkChoice>,
    /// What it can send at least, in Mbit/s; 0 for no guarantee.
    #[arg(long, value_name = "MBIT")]
    min_rate: Option<u32>,
    /// What it can send at most, in Mbit/s; 0 for no limit.
    #[arg(long, value_name = "MBIT")]
    max_rate: Option<u32>,
    /// How many MSI-X vectors it has; 0 lets the PF's driver choose.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=2048))]
    msix: Option<u16>,
}

/// An address, or none.
#[derive(Debug, Clone, Copy)]
struct MacChoice(MacAddress);

impl FromStr for MacChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<MacChoice, String> {
        if text == "none" {
            return Ok(MacChoice(MacAddress([0; 6])));
        }
        let mac: MacAddress = text.parse().map_err(|error| format!("{error}"))?;
        if mac.is_zero() {
            return Err("an address of zeros is no address: write none to clear it".to_owned());
        }
        if mac.is_multicast() {
            return Err(format!(
                "{mac} names a group of stations: the first byte of a VF's address is even"
            ));
        }
        Ok(MacChoice(mac))
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinkChoice {
    Auto,
    Enable,
    Disable,
}

impl From<LinkChoice> for LinkState {
    fn from(choice: LinkChoice) -> LinkState {
        match choice {
            LinkChoice::Auto => LinkState::Auto,
            LinkChoice::Enable => LinkState::Enable,
            LinkChoice::Disable => LinkState::Disable,
        }
    }
}

impl Set {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        self.find(&HostSnapshot::read(&context.root))?;
        let operation = Operation::begin(&context.root, &context.state, "vf set")?;
        let snapshot = HostSnapshot::read(&context.root);
        let found = self.find(&snapshot)?;
        let leases = context.state.leases(&context.root)?;
        let mut changes = Vec::new();
        for found in &found {
            let steps = self.changes(context, &snapshot, found)?;
            check(context, &snapshot, found, &steps, &leases)?;
            changes.extend(steps);
        }
        let operation = operation.perform_all(&changes)?;
        let changes = operation.done();
        let mut notes = Vec::new();
        for found in &found {
            notes.extend(note_driver(found, &changes));
            notes.extend(note_policy(context, found, &changes)?);
        }
        operation.commit(|_| Ok(()))?;
        apply::show(context, &Report { changes, notes }, "nothing to do: it is set so already")?;
        Ok(0)
    }

    /// The VFs, each once.
    fn find<'a>(&self, snapshot: &'a HostSnapshot) -> Result<Vec<Found<'a>>, Failure> {
        let mut all: Vec<Found<'a>> = Vec::new();
        for name in &self.vfs {
            let found = find_vf(snapshot, name)?;
            if all.iter().all(|other| other.vf != found.vf) {
                all.push(found);
            }
        }
        if all.len() > 1 && self.mac.is_some_and(|MacChoice(mac)| !mac.is_zero()) {
            let message = format!("an address is for one VF, and {} are named", all.len());
            return Err(Failure::bad_input(OwnReason::Usage, "--mac", message)
                .with_remedy("Set the addresses one by one."));
        }
        Ok(all)
    }

    /// The steps for one VF: what it has already is none.
    fn changes(
        &self,
        context: &Context,
        snapshot: &HostSnapshot,
        found: &Found<'_>,
    ) -> Result<Vec<Change>, Failure> {
        let vf = found.vf;
        let mut changes = Vec::new();
        if self.wants_port() {
            let settings = settings(snapshot, found)?;
            if let Some(MacChoice(to)) = self.mac.filter(|MacChoice(mac)| *mac != settings.mac) {
                changes.push(Change::SetVfMac { vf, from: settings.mac, to });
            }
            for setting in self.settings(context, snapshot, found, settings)? {
                changes.push(Change::SetVf { vf, setting });
            }
        }
        if let Some(to) = self.msix {
            changes.extend(vectors(context, found, to));
        }
        Ok(changes)
    }

    /// Whether something is asked for that goes over the PF's interface.
    fn wants_port(&self) -> bool {
        self.mac.is_some()
            || self.vlan.is_some()
            || self.qos.is_some()
            || self.protocol.is_some()
            || self.trust.is_some()
            || self.spoof_check.is_some()
            || self.link_state.is_some()
            || self.min_rate.is_some()
            || self.max_rate.is_some()
    }

    fn settings(
        &self,
        context: &Context,
        snapshot: &HostSnapshot,
        found: &Found<'_>,
        now: &VfSettings,
    ) -> Result<Vec<VfSetting>, Failure> {
        let mut wanted = Vec::new();
        if let Some(to) = self.wanted_vlan(found, now.vlan)? {
            wanted.push(VfSetting::Vlan(Step { from: now.vlan, to }));
        }
        // Where the driver does not tell, the step itself says so.
        let on = |switch: Switch| matches!(switch, Switch::On);
        if let Some(to) = self.trust.map(on) {
            wanted.push(VfSetting::Trust(Step { from: now.trust.unwrap_or(!to), to }));
        }
        if let Some(to) = self.spoof_check.map(on) {
            wanted.push(VfSetting::SpoofCheck(Step { from: now.spoof_check.unwrap_or(!to), to }));
        }
        if let Some(to) = self.link_state.map(LinkState::from) {
            wanted.push(VfSetting::LinkState(Step { from: now.link_state, to }));
        }
        if self.min_rate.is_some() || self.max_rate.is_some() {
            let to = Rate {
                min: self.min_rate.unwrap_or(now.rate.min),
                max: self.max_rate.unwrap_or(now.rate.max),
            };
            check_rate(context, snapshot, found, to)?;
            wanted.push(VfSetting::Rate(Step { from: now.rate, to }));
        }
        wanted.retain(|setting| !setting.is_nothing());
        Ok(wanted)
    }

    /// The VLAN from its three options; what is not given stays.
    fn wanted_vlan(&self, found: &Found<'_>, now: Vlan) -> Result<Option<Vlan>, Failure> {
        let bad = |message: String, remedy: &str| {
            Failure::bad_input(Reason::InvalidValue, "--vlan", message).with_remedy(remedy)
        };
        let mut vlan = match &self.vlan {
            None if self.qos.is_none() && self.protocol.is_none() => return Ok(None),
            None => now,
            Some(text) => {
                let vlan: Vlan = text.parse().map_err(|error| bad(format!("{error}"), ""))?;
                let parts = text.split(':').count();
                let twice = (parts > 1 && self.qos.is_some(), parts > 2 && self.protocol.is_some());
                if twice.0 || twice.1 {
                    let which = if twice.0 { "--qos" } else { "--protocol" };
                    let message = format!("{text} says it, and {which} says it as well");
                    return Err(bad(message, "Say it once."));
                }
                vlan
            }
        };
        vlan.qos = self.qos.unwrap_or(vlan.qos);
        vlan.protocol = self.protocol.unwrap_or(vlan.protocol);
        if vlan.id == 0 && vlan.protocol == VlanProtocol::Ieee8021Ad {
            let message = format!("{} has no VLAN for 802.1ad to be the tag of", found.vf);
            return Err(bad(message, "Give its id: --vlan ID."));
        }
        Ok(Some(vlan))
    }
}

/// What the PF has set for a VF now.
fn settings<'a>(snapshot: &HostSnapshot, found: &Found<'a>) -> Result<&'a VfSettings, Failure> {
    found.facts.vf_settings.get(&found.vf.index).ok_or_else(|| {
        let (message, remedy) = match snapshot.port_of(found.pf) {
            Some(port) => (
                format!("cannot be set: {} does not tell what it has set for it", port.name),
                "Run assign as root on the host itself; its PF's driver has to know VFs.",
            ),
            None => (
                "cannot be set: its PF has no network interface".to_owned(),
                "Bind the host's driver to the PF; an interface that was moved to another network \
                 namespace has to come back first.",
            ),
        };
        Failure::failed(Reason::NoInterface, found.vf, message).with_remedy(remedy)
    })
}

/// A limit that cannot be meant, as far as one can know.
fn check_rate(
    context: &Context,
    snapshot: &HostSnapshot,
    found: &Found<'_>,
    rate: Rate,
) -> Result<(), Failure> {
    let bad = |message: String, remedy: &str| {
        Err(Failure::bad_input(Reason::InvalidValue, found.vf, message).with_remedy(remedy))
    };
    if rate.max != 0 && rate.min > rate.max {
        let message = format!("cannot send at least {} and at most {} Mbit/s", rate.min, rate.max);
        return bad(message, "Give a --min-rate that is no higher than --max-rate.");
    }
    let Some(port) = snapshot.port_of(found.pf) else { return Ok(()) };
    match net::speed(&context.root, &port.name) {
        Some(speed) if rate.min.max(rate.max) > speed => {
            let rate = rate.min.max(rate.max);
            let message =
                format!("cannot send {rate} Mbit/s: the link of {} has {speed}", port.name);
            bad(message, "Give at most that, or 0 for no limit.")
        }
        _ => Ok(()),
    }
}

/// The steps for another number of vectors: its driver has to let go of the VF for that long.
fn vectors(context: &Context, found: &Found<'_>, to: u16) -> Vec<Change> {
    let from = act::vf_settings::vectors(&context.root, found.function.address).unwrap_or(0);
    if from == to {
        return Vec::new();
    }
    let vf = found.vf;
    let set = Change::SetVf { vf, setting: VfSetting::Msix(Step { from, to }) };
    let bound = act::bind::binding(found.function);
    if bound.driver.is_none() || !act::vf_settings::divides_vectors(&context.root, vf) {
        // Where that cannot be, the step says so, and nothing else is touched.
        return vec![set];
    }
    let device = Target::Vf(vf);
    let off = Binding::default();
    vec![
        Change::Restore { device, from: bound.clone(), to: off.clone() },
        set,
        Change::Restore { device, from: off, to: bound },
    ]
}

/// What is in use keeps its settings, but for those that its user goes on under.
fn check(
    context: &Context,
    snapshot: &HostSnapshot,
    found: &Found<'_>,
    changes: &[Change],
    leases: &[Lease],
) -> Result<(), Failure> {
    let harmless =
        |change: &Change| matches!(change, Change::SetVf { setting, .. } if setting.is_harmless());
    let Some(change) = changes.iter().find(|change| !harmless(change)) else { return Ok(()) };
    let tried = change.action().to_string();
    if let Some(lease) = leases.iter().find(|lease| lease.device == found.function.address) {
        return Err(vfs::leased(lease, &tried));
    }
    device::check_open(context, found.function, &tried)?;
    match usage::of(snapshot, found.function).into_iter().next() {
        None => Ok(()),
        Some(used) => {
            let message = format!("will not {tried}: the host needs it ({used})");
            let failure = Failure::refused(Reason::HostUsesDevice, found.function.address, message);
            Err(failure.with_remedy("Move what it carries elsewhere first."))
        }
    }
}

/// A driver of the host hears of another address when it resets the VF, and not before.
fn note_driver(found: &Found<'_>, changes: &[Change]) -> Option<String> {
    let set = |change: &Change| matches!(change, Change::SetVfMac { vf, .. } if *vf == found.vf);
    let driver = found.function.driver.as_deref()?;
    if isolation::is_vfio_driver(driver) || !changes.iter().any(set) {
        return None;
    }
    let remedy = match found.function.netdevs.first() {
        Some(name) => format!("`ip link set {name} down` and `up` may do that"),
        None => "binding it anew does that".to_owned(),
    };
    let address = found.function.address;
    Some(format!(
        "{driver} has {address} and uses the new address from its next reset on; {remedy}"
    ))
}

/// What a policy has set comes back with the next apply.
fn note_policy(
    context: &Context,
    found: &Found<'_>,
    changes: &[Change],
) -> Result<Option<String>, Failure> {
    let set = |change: &Change| matches!(change, Change::SetVfMac { vf, .. } if *vf == found.vf);
    if !changes.iter().any(set) {
        return Ok(None);
    }
    let applied = context.state.applied()?;
    let sets = |applied: &&crate::state::Applied| applied.changes.iter().any(set);
    Ok(applied.iter().find(sets).map(|applied| {
        let policy = &applied.policy.name;
        format!("policy {policy} sets the address of {}: `assign apply` does so again", found.vf)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_station_only() {
        let MacChoice(mac) = "02:00:00:00:00:01".parse().expect("an address");
        assert_eq!(mac, MacAddress([2, 0, 0, 0, 0, 1]));
        let MacChoice(none) = "none".parse().expect("none");
        assert!(none.is_zero());
        for (text, word) in [
            ("00:00:00:00:00:00", "none"),
            ("01:00:5e:00:00:01", "group"),
            ("ff:ff:ff:ff:ff:ff", "group"),
            ("02:00:00:00:00", "six bytes"),
            ("", "six bytes"),
        ] {
            let error = text.parse::<MacChoice>().expect_err("no address for a VF");
            assert!(error.contains(word), "{error}");
        }
    }
}
