//! That `assign bind`, the doctor and every list are of one mind about a device: on each host of
//! `tests/hosts`, after whatever may happen to some of its devices.

use std::path::Path;

use proptest::prelude::*;
use sriov::HostRoot;
use sriov::facts::iommu::{Region, RegionKind};
use sriov::facts::net::Netdev;
use sriov::facts::platform::Module;

use super::*;
use crate::doctor::{self, Facts, Verdict};
use crate::state::Owner;
use crate::topology::{Standing, Standings};

/// What may happen to a device.
#[derive(Debug, Clone, Copy)]
enum Event {
    Direct,
    Relaxable,
    ToGuests,
    ToHost,
    ToNobody,
    Advertised,
    Addressed,
    Leased,
    MovedBeside(prop::sample::Index),
    WithoutIommu,
    BesideAnother,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Direct),
        Just(Event::Relaxable),
        Just(Event::ToGuests),
        Just(Event::ToHost),
        Just(Event::ToNobody),
        Just(Event::Advertised),
        Just(Event::Addressed),
        Just(Event::Leased),
        any::<prop::sample::Index>().prop_map(Event::MovedBeside),
        Just(Event::WithoutIommu),
        Just(Event::BesideAnother),
    ]
}

/// The kept hosts. What a host lacks for all its devices alike is not a matter of one of them.
fn hosts() -> Vec<HostSnapshot> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("tests/hosts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let host = |path: &std::path::PathBuf| {
        let text = std::fs::read(path).expect("a host");
        let mut host = HostSnapshot::from_json(&text).expect("a snapshot");
        host.platform.modules.vfio_pci = Module::Loadable;
        host.platform.modules.vfio_iommu_type1 = Module::Loadable;
        host
    };
    files.iter().map(host).collect()
}

/// Carries it out on the device at this place.
fn happen(host: &mut HostSnapshot, leases: &mut Vec<Lease>, at: usize, event: Event) {
    let Some(device) = host.functions.get(at).cloned() else { return };
    let region = |kind| Region { start: 0xbdf6_f000, end: 0xbdf7_efff, kind };
    let group = device.iommu_group.and_then(|number| host.iommu.groups.get_mut(&number));
    match (event, group) {
        (Event::Direct, Some(group)) => group.reserved.push(region(RegionKind::Direct)),
        (Event::Relaxable, Some(group)) => group.reserved.push(region(RegionKind::DirectRelaxable)),
        (Event::WithoutIommu, Some(group)) => group.isolates = false,
        (Event::BesideAnother, Some(group)) => group.others.push("PNP0501:00".to_owned()),
        (Event::ToGuests, _) => drive(host, at, Some("vfio-pci")),
        (Event::ToHost, _) => drive(host, at, Some("e1000e")),
        (Event::ToNobody, _) => drive(host, at, None),
        (Event::Advertised, _) => address(host, at, true),
        (Event::Addressed, _) => address(host, at, false),
        (Event::Leased, _) => {
            let nowhere = HostRoot::at(Path::new("/nowhere"));
            let owner = Owner { pid: 7, started: 7 };
            let lease = Lease::new(&nowhere, device.address, "web-1", owner);
            leases.push(Lease { group: device.iommu_group, ..lease });
        }
        (Event::MovedBeside(other), Some(group)) => {
            group.members.retain(|member| *member != device.address);
            let to = other.get(&host.functions).iommu_group;
            let Some(to) = to.or(device.iommu_group) else { return };
            let members = &mut host.iommu.groups.entry(to).or_default().members;
            members.push(device.address);
            members.sort();
            if let Some(function) = host.functions.get_mut(at) {
                function.iommu_group = Some(to);
            }
        }
        (_, None) => {}
    }
}

fn drive(host: &mut HostSnapshot, at: usize, driver: Option<&str>) {
    if let Some(function) = host.functions.get_mut(at) {
        function.driver = driver.map(str::to_owned);
    }
}

/// An interface with an address, as the kernel takes it from a router or a person gives it.
fn address(host: &mut HostSnapshot, at: usize, autoconfigured: bool) {
    let Some(function) = host.functions.get_mut(at) else { return };
    let name = format!("new{at}");
    if function.netdevs.contains(&name) {
        return;
    }
    function.netdevs.push(name.clone());
    host.netdevs.push(Netdev {
        name,
        altnames: Vec::new(),
        index: 1000,
        mac: None,
        permanent_mac: None,
        up: true,
        carrier: Some(true),
        master: None,
        uppers: Vec::new(),
        pci: Some(function.address),
        port_name: None,
        addresses: vec!["2001:db8::1".parse().expect("an address")],
        routes: true,
        default_route: false,
        xdp: false,
        accept_ra: Some(1),
        autoconfigured,
    });
    host.netdevs.sort_by(|a, b| a.name.cmp(&b.name));
}

/// More than this of a host's devices are not looked at one by one.
const MANY: usize = 48;

/// What each says of the devices: `Err` names the first that they disagree about. Counts those that
/// can be given away.
fn agreement(host: &HostSnapshot, leases: &[Lease], touched: &[usize]) -> Result<usize, String> {
    let standings = Standings::new(host, leases);
    let step = host.functions.len().div_ceil(MANY);
    let mut possible = 0;
    for (at, function) in host.functions.iter().enumerate() {
        if at % step != 0 && !touched.contains(&at) {
            continue;
        }
        let address = function.address;
        let standing = standings.of(address);
        let diagnosis = doctor::device(Facts { snapshot: host, leases, state: None }, function);
        let wanted =
            Wanted { snapshot: host, leases, together: &[address], forced: &[], no_iommu: false };
        let by_doctor = diagnosis.verdict != Verdict::No;
        let by_lists = matches!(standing, Standing::Ready | Standing::Free);
        let by_bind = wanted.check(function, "vfio-pci");
        let told = || {
            let bind = match &by_bind {
                Ok(()) => "takes it".to_owned(),
                Err(Against::Protected(failure)) => failure.to_string(),
                Err(Against::NotViable(cause)) => cause.to_string(),
            };
            let findings: Vec<&str> = diagnosis
                .findings
                .iter()
                .filter(|finding| finding.level == doctor::Level::Problem)
                .map(|finding| finding.title.as_str())
                .collect();
            format!("{address}: doctor {findings:?}; lists {standing:?}; bind {bind}")
        };
        if by_doctor != by_lists || by_lists != by_bind.is_ok() {
            return Err(told());
        }
        if (diagnosis.verdict == Verdict::Ready) != (*standing == Standing::Ready) {
            return Err(told());
        }
        possible += usize::from(by_doctor);
    }
    Ok(possible)
}

#[test]
fn kept_hosts_have_devices_of_both_kinds() {
    let mut possible = 0;
    let mut all = 0;
    for host in hosts() {
        possible += agreement(&host, &[], &[]).unwrap_or_else(|told| panic!("{told}"));
        all += host.functions.len();
    }
    assert!(possible > 10 && all > possible + 10, "{possible} of {all}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn bind_doctor_and_lists_are_of_one_mind(
        which in any::<prop::sample::Index>(),
        events in prop::collection::vec((any::<prop::sample::Index>(), event()), 0..6),
    ) {
        let hosts = HOSTS.with(Clone::clone);
        let mut host = which.get(&hosts).clone();
        let (mut leases, mut touched) = (Vec::new(), Vec::new());
        for (at, event) in &events {
            let at = at.index(host.functions.len());
            touched.push(at);
            happen(&mut host, &mut leases, at, *event);
        }
        if let Err(told) = agreement(&host, &leases, &touched) {
            prop_assert!(false, "{told}");
        }
    }
}

thread_local! {
    static HOSTS: std::rc::Rc<Vec<HostSnapshot>> = std::rc::Rc::new(hosts());
}
