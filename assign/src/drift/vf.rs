//! What a PF has set for one VF, against what its pool says.

use sriov::{PciFunction, PfFacts, VfRef};

use super::{At, Attribute, Drift, Fact};

impl At<'_> {
    /// The settings of a VF that is there. Where the kernel was not asked for them (a recorded tree),
    /// nothing is known to differ; where it was and did not answer, they are unknown.
    pub(super) fn settings(&self, pf: &PciFunction, facts: &PfFacts, vf: VfRef, drift: &mut Drift) {
        let wanted = &self.pool.network;
        let mac = self.macs.wanted(pf, self.pool, vf.index);
        let Some(now) = facts.vf_settings.get(&vf.index) else {
            let port = self.host.port_of(pf).map(|port| port.name.as_str());
            let cause = port.and_then(|name| self.unread.of_settings(name));
            let asked = [
                (Attribute::Mac, mac.is_some()),
                (Attribute::Vlan, wanted.vlan.is_some()),
                (Attribute::Trust, wanted.trust.is_some()),
                (Attribute::SpoofCheck, wanted.spoof_check.is_some()),
                (Attribute::LinkState, wanted.link_state.is_some()),
                (Attribute::Rate, wanted.rate.is_some()),
            ];
            if let Some(cause) = cause {
                for (attribute, _) in asked.into_iter().filter(|(_, asked)| *asked) {
                    self.tell(vf, attribute, Fact::Unknown(cause.clone()), drift);
                }
            }
            return;
        };
        let mut tell = |attribute, fact: Option<Fact>| {
            if let Some(fact) = fact {
                self.tell(vf, attribute, fact, drift);
            }
        };
        let address = |mac: sriov::MacAddress| match mac.is_zero() {
            true => "none".to_owned(),
            false => mac.to_string(),
        };
        tell(Attribute::Mac, mac.map(|to| Fact::of(address(now.mac), to)));
        tell(Attribute::Vlan, wanted.vlan.map(|to| Fact::of(now.vlan, to)));
        tell(Attribute::Trust, wanted.trust.map(|to| switch(pf, now.trust, to)));
        tell(Attribute::SpoofCheck, wanted.spoof_check.map(|to| switch(pf, now.spoof_check, to)));
        tell(Attribute::LinkState, wanted.link_state.map(|to| Fact::of(now.link_state, to)));
        tell(Attribute::Rate, wanted.rate.map(|to| Fact::of(now.rate, to)));
    }
}

/// A setting that not every driver reports.
fn switch(pf: &PciFunction, now: Option<bool>, to: bool) -> Fact {
    let word = |on: bool| if on { "on" } else { "off" };
    match now {
        Some(now) => Fact::of(word(now), word(to)),
        None => {
            let driver = pf.driver.as_deref().unwrap_or("of its PF");
            Fact::Unknown(format!("driver {driver} does not report it"))
        }
    }
}
