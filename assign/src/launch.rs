//! From a guest's document to a running guest, and back to a host with a free VF.
//!
//! ```text
//!  1 boot files, disks,   nothing touched yet: a wrong path is the likeliest mistake; the disk for
//!    /dev/vhost-vsock     cloud-init is made (seed)
//!  2 /dev/kvm open        without it there is no guest, so no device need be claimed; then the
//!                         kernel is taken out of its bzImage, or out of the cache of these; one
//!                         that is on a disk is read there, by a process of its own (image)
//!  3 snapshot, choice     which VF for which network, or why not (choose, pure); what dead
//!                         guests left is returned before, since it may be chosen
//!  4 lease taken          before the device is opened: two launchers cannot both open it, and a
//!                         crash from here on leaves a lease that says who had the device; one that
//!                         the host lends (`driver: host`) is bound now, for this guest only,
//!                         with all of its IOMMU group that the host has
//!  5 VFIO files open      what cannot be opened is given back, and 3 is done again without it
//!  6 TAPs made            last of the things that can fail: they touch a bridge
//!  7 spec, assign-vmm     where it has limits, in its control group from its first instruction on;
//!                         it inherits the descriptors; ours are closed, so its end frees all
//!  8 console, events      until the guest stops or somebody asks us to
//!  9 VMM reaped           its descriptors are closed now, which resets the device
//! 10 lease released       after the reset: nobody else may open the device before; what was lent
//!                         has its address and the host's driver again by then
//! ```
//!
//! A guest whose devices turn out in 8 to be of no use, since one does not open or memory cannot be
//! pinned for them, goes from 9 to 3 without: what it has no device for then gets its fallback.
//!
//! A guest that reboots goes from 9 to 5 with its lease: a fresh process, freshly opened files. The
//! VF stays bound to its pool's driver: the pool owns the binding, the guest only the lease, unless
//! the pool says `driver: host`.
//!
//! The steps that decide are pure (`choose`, `spec`), those that open say what to do about a
//! failure (`handles`, `tap`), and the process can only end with its launcher (`process`).

mod balloon;
mod connect;
mod console;
mod disks;
mod ended;
mod error;
mod handles;
mod image;
mod kernel;
mod lease;
mod link;
mod links;
pub(crate) mod log;
mod model;
mod numa;
mod pages;
pub(crate) mod placement;
mod ports;
mod process;
mod seed;
mod serve;
mod session;
mod spec;
mod stats;
mod supervisor;
mod tap;
mod timeline;
mod told;
pub(crate) mod vfio;
mod vsock;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use policies::Guest;
use rustix::pipe::PipeFlags;
use sriov::dma_fault::{DmaFault, Faults};
use sriov::netlink::{Changed, LinkNews};
use sriov::{HostRoot, PciAddress};
use vmm::spec::{GuestEvent, Sandbox, StopReason};

use self::connect::Connected;
use self::console::Console;
use self::handles::{BootFiles, Opened};
use self::links::Links;
use self::numa::Node;
use self::placement::Placement;
use self::process::{Begins, Near, Vmm};
use self::session::{Ending, Host};
use self::spec::Parts;
use self::supervisor::Supervisor;
use self::timeline::Moment;
pub use self::timeline::Timeline;
pub use self::told::Told;
pub use self::vfio::Interface;
use self::vsock::Vsock;
use crate::apply::leases;
use crate::cgroup::Group;
use crate::choose::{ByForce, Choice, Connection, Offer};
use crate::control::stats::Launching;
use crate::control::{self, Place};
use crate::failure::Failure;
use crate::signals::Signals;
use crate::state::State;

/// One guest to be run.
pub struct Launch<'a> {
    /// This host.
    pub root: &'a HostRoot,
    /// The state, where leases are.
    pub state: &'a State,
    /// The guest.
    pub guest: &'a Guest,
    /// Pools that it may claim from.
    pub offers: &'a [Offer],
    /// Is asked before a device is taken that the host uses.
    pub confirm: &'a (dyn Fn(PciAddress, &ByForce) -> Result<(), Failure> + Sync),
    /// Is told what happens, for people or programs to read, from whatever thread notices.
    pub tell: &'a (dyn Fn(Told<'_>) + Sync),
    /// Takes note of how the launch goes.
    pub timeline: &'a Timeline,
    /// Whether that is to be told at each start.
    pub show_timeline: bool,
    /// Whether its process is shut in.
    pub sandboxed: bool,
    /// Whether our standard input and output are its console, beside those who are attached.
    pub in_front: bool,
}

/// The first of the users that guests' processes are: far from those that people and services have,
/// as they are given by hand, by distributions, and by containers.
const FIRST_USER: u32 = 0x7000_0000;

/// Whom the guest's process is to be: as no other that runs, since each launcher has one guest.
fn sandbox() -> Sandbox {
    let user = FIRST_USER + std::process::id();
    Sandbox { user, group: user }
}

/// What a guest has over all its lives.
struct Stays<'a> {
    place: &'a Place,
    group: Option<&'a Group>,
    signals: &'a Signals,
    console: &'a Console,
    /// Locked as long as these are open.
    disks: &'a [OwnedFd],
    /// What it is to give of its memory, in bytes.
    target: &'a AtomicU64,
    seed: Option<&'a OwnedFd>,
    /// The sockets of its ports.
    ports: &'a [OwnedFd],
}

impl Launch<'_> {
    /// Runs the guest from start to end.
    ///
    /// # Errors
    /// Why it did not start, or how it ended other than by itself or by request. Its devices are
    /// given back in any case.
    pub fn run(&self) -> Result<(), Failure> {
        let (boot, kvm) = self.open_files()?;
        let disks = disks::open(self.guest)?;
        let vhost = vsock::open(self.root, self.guest)?;
        let seed = seed::make(self.guest)?;
        if self.sandboxed && !rustix::process::geteuid().is_root() {
            return Err(error::not_shut_in(self.guest));
        }
        lease::check_name(self.state, self.root, &self.guest.name)?;
        let place = Place::take(self.root, &self.guest.name)?;
        let ports = ports::listen(&place, self.guest)?;
        let vsock = self.vsock(vhost, None)?;
        let mut cid = vsock.as_ref().map(|vsock| vsock.cid);
        self.timeline.time(Launching::ReturnLeftovers, || leases::tidy(self.root, self.state))?;
        let boot = self.boot_files(boot, &disks)?;
        // From here on, being asked to end means to end in order.
        let signals = Signals::hold().map_err(|error| self.system("hold signals back", &error))?;
        if !self.sandboxed {
            (self.tell)(Told::NoSandbox);
        }
        self.tell_overcommitted();
        if let Some(why) = pages::unmerged(self.root, self.guest) {
            (self.tell)(Told::Memory(&why));
        }
        let group = Group::make(self.root, self.guest)?;
        let console = self.console()?;
        let stays = Stays {
            place: &place,
            group: group.as_ref(),
            signals: &signals,
            console: &console,
            disks: &disks,
            target: &AtomicU64::new(0),
            seed: seed.as_ref(),
            ports: &ports,
        };
        let mut failed = BTreeMap::new();
        let mut connected = self.connect(&mut failed)?;
        let mut ending = self.live(&stays, &mut connected, boot, kvm, vsock)?;
        loop {
            match &ending {
                Ending::Guest(StopReason::Reboot) => (self.tell)(Told::Rebooting),
                // Each round excludes one more device that it had, so the rounds end.
                Ending::Guest(StopReason::NoDevices { device, detail })
                    if !connected.devices.is_empty() =>
                {
                    (self.tell)(Told::NoDevices(detail));
                    failed.extend(self.of_no_use(&connected.devices, device.as_deref(), detail));
                }
                _ => break,
            }
            self.timeline.restart();
            let (boot, kvm) = self.open_files()?;
            let boot = self.boot_files(boot, &disks)?;
            let vsock = self.vsock(vsock::open(self.root, self.guest)?, cid)?;
            cid = vsock.as_ref().map(|vsock| vsock.cid);
            connected = self.connect_again(connected, &mut failed)?;
            ending = self.live(&stays, &mut connected, boot, kvm, vsock)?;
        }
        let out_of_memory = group.as_ref().and_then(Group::out_of_memory);
        let how = ended::how(&ending, out_of_memory);
        let ended = connected.lease.release().and_then(|()| {
            console.finish(&signals);
            ended::ended(self.guest, ending, out_of_memory)
        });
        (self.tell)(Told::Ended { how, failure: ended.as_ref().err() });
        ended
    }

    fn tell_overcommitted(&self) {
        let vcpus = self.guest.cpus.count;
        // Each host has one.
        let online = if vcpus > 1 { placement::online(self.root) } else { None };
        if let Some(host_cpus) = online.filter(|online| *online < u32::from(vcpus)) {
            (self.tell)(Told::Overcommitted { vcpus, host_cpus });
        }
    }

    /// Its console, for all its lives.
    fn console(&self) -> Result<Console, Failure> {
        let running = control::guests(self.root);
        let wanted = |name: &str| name == self.guest.name || running.iter().any(|one| one == name);
        log::forget_old(&self.state.guests(), wanted);
        let path = self.state.guest(&self.guest.name).join(log::CONSOLE);
        let (console, unwritten) = Console::open(path, self.in_front)
            .map_err(|error| self.system("make its console", &error))?;
        if let Some(error) = unwritten {
            (self.tell)(Told::Unwritten(&error));
        }
        Ok(console)
    }

    /// What is opened before anything is touched.
    fn open_files(&self) -> Result<(Opened<'_>, OwnedFd), Failure> {
        placement::check(self.root, self.guest)?;
        model::check(self.root, self.guest)?;
        pages::check(self.root, self.guest)?;
        self.timeline.time(Launching::OpenBootFiles, || {
            Ok((BootFiles::open(self.guest)?, handles::open_kvm(self.root)?))
        })
    }

    /// Its sockets, with the CID that it had `before` if it has had one and still can. What is new is told.
    fn vsock(&self, vhost: Option<OwnedFd>, before: Option<u32>) -> Result<Option<Vsock>, Failure> {
        let Some(vhost) = vhost else { return Ok(None) };
        let vsock = vsock::claim(self.root, self.guest, vhost, before)?;
        if before != Some(vsock.cid) {
            (self.tell)(Told::Vsock { cid: vsock.cid });
        }
        Ok(Some(vsock))
    }

    /// What it boots: what was opened, or what the boot loader on one of its disks has now.
    fn boot_files(&self, opened: Opened<'_>, disks: &[OwnedFd]) -> Result<BootFiles, Failure> {
        let files = match opened {
            Opened::Files(files) => files,
            Opened::OnDisk(wanted) => {
                let sandbox = self.sandboxed.then(sandbox);
                let (title, files) = self.timeline.time(Launching::ReadBootLoader, || {
                    image::read(self.guest, &wanted, disks, sandbox, self.last_words())
                })?;
                let disk = &self.guest.disks[wanted.disk].name;
                (self.tell)(Told::Boots { disk, entry: &title });
                files
            }
        };
        Ok(self.take_out(files))
    }

    /// The same files with the kernel itself in place of an image that would have to unpack itself.
    fn take_out(&self, files: BootFiles) -> BootFiles {
        let start = Moment::now();
        let kernel = kernel::take_out(files.kernel, &self.state.kernels());
        self.timeline.note(kernel.origin.into(), start);
        if let Some(why) = &kernel.packed_because {
            (self.tell)(Told::Packed(why));
        }
        BootFiles { kernel: kernel.file, ..files }
    }

    /// One life of the guest, from power-on to its end.
    fn live(
        &self,
        stays: &Stays<'_>,
        connected: &mut Connected<'_>,
        boot: BootFiles,
        kvm: OwnedFd,
        vsock: Option<Vsock>,
    ) -> Result<Ending, Failure> {
        let (console, cid) = (stays.console, vsock.as_ref().map(|vsock| vsock.cid));
        let (news, cards) = self.timeline.time(Launching::ConnectNetworks, || {
            let networks = &connected.choice.networks;
            let virtio = |network: &Connection| matches!(network, Connection::Virtio { .. });
            let news = links::listen(networks.iter().any(virtio))
                .map_err(|error| self.system("listen to the host's network", &error))?;
            let cards = handles::open_cards(self.root, stays.place, self.guest, networks)?;
            Ok::<_, Failure>((news, cards))
        })?;
        let links = Links::of(&cards).map_err(|error| self.system("share its TAPs", &error))?;
        let (events, events_of_guest) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| self.system("make a pipe", &error.into()))?;
        if console.takes_terminal() {
            (self.tell)(Told::Console);
        }
        let (_life, its) =
            console.live().map_err(|error| self.system("give it a console", &error))?;
        let vfio = connected.vfio.take();
        let (link, control) =
            link::pair().map_err(|error| self.system("make a pair of sockets", &error))?;
        let disks = stays.disks.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        let disks = disks.map_err(|error| self.system("share its disks", &error))?;
        let ports = stays.ports.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        let ports = ports.map_err(|error| self.system("share its ports", &error))?;
        let seed = stays.seed.map(OwnedFd::try_clone).transpose();
        let seed = seed.map_err(|error| self.system("share its disks", &error))?;
        let sandbox = self.sandboxed.then(sandbox);
        let near = self.wanted_node(&connected.choice);
        let Placement { process: cpus, bound } = Placement::of(self.root, self.guest, near)
            .map_err(|error| self.system("find out which CPUs it may run on", &error))?;
        let parts = Parts {
            kvm,
            boot,
            console: its,
            events: events_of_guest,
            control,
            disks,
            seed,
            cards,
            vsock,
            ports,
            vfio,
            sandbox,
            bound,
            nodes: self.own_nodes(),
            target: stays.target.load(Ordering::Relaxed),
        };
        let program = process::program();
        let spec = parts.spec(self.guest);
        let begins =
            Begins {
                inherits: parts.descriptors(),
                events,
                near: Near { node: self.node(&connected.choice), cpus },
                group: stays.group.map(Group::entrance).transpose().map_err(|error| {
                    self.system("have its process enter its control group", &error)
                })?,
                last_words: self.last_words(),
            };
        let started =
            self.timeline.time(Launching::StartVmm, || Vmm::start(&program, &spec, begins));
        // Ours are closed now: the VMM's end alone frees devices, interfaces and pipes.
        drop(parts);
        let vmm = started.map_err(|error| error::vmm(self.guest, &program, &error))?;
        // Where that fails, or the VMM has ended by now, the launcher stays the owner.
        connected.lease.hand_to(vmm.pid()).ok();
        let ending = Supervisor::new(self, connected, &link, vmm.pid(), cid, stays.target)
            .and_then(|supervisor| self.attend(stays, vmm, &supervisor, (&links, news)));
        ending.map_err(|error| self.system("attend to its process", &error))
    }

    /// Where its process prints what is no event: on our standard error, or, where that is somebody's
    /// who does not wait, to the file of what happened to the guest.
    fn last_words(&self) -> Stdio {
        if self.in_front {
            return Stdio::inherit();
        }
        let path = self.state.guest(&self.guest.name).join(log::EVENTS);
        OpenOptions::new().append(true).open(path).map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// Stays with the running guest, and lets people speak to it.
    fn attend(
        &self,
        stays: &Stays<'_>,
        vmm: Vmm,
        supervisor: &Supervisor<'_, '_, '_>,
        (links, news): (&Links, Option<LinkNews>),
    ) -> io::Result<Ending> {
        let Stays { place, signals, console, .. } = *stays;
        let listener = serve::listen(place)?;
        let ending = thread::scope(|scope| {
            serve::serve(scope, &listener, supervisor, console)?;
            let hear = |event: GuestEvent| {
                if let Some(device) = supervisor.ends_with(&event) {
                    return ControlFlow::Break(Ending::DeviceError(device));
                }
                if supervisor.hear(&event) {
                    scope.spawn(move || supervisor.attend_to(&event));
                }
                ControlFlow::Continue(())
            };
            let blocked = |fault: DmaFault| supervisor.blocked(&fault);
            let changed = |changed: Changed| {
                if links.may_be_among(&changed) {
                    scope.spawn(move || supervisor.look_at(links));
                }
            };
            if news.is_some() {
                // Some may be down from the beginning.
                scope.spawn(move || supervisor.look_at(links));
            }
            let asks = [supervisor.ends(), console.leaves()];
            let host = Host { faults: self.faults(), links: news };
            let ending = session::attend(vmm, signals, asks, host, hear, blocked, changed);
            supervisor.end();
            serve::stop(place);
            ending.map(|ending| match ending {
                // Its next life is one that nobody wants.
                Ending::Guest(StopReason::Reboot | StopReason::NoDevices { .. })
                    if supervisor.is_unwanted() =>
                {
                    Ending::Asked
                }
                ending => ending,
            })
        });
        // The next life of the guest makes its own.
        place.clear().and(ending)
    }

    /// Follows faults of the IOMMU; a guest runs without as well, and its devices are kept from others'
    /// memory all the same.
    fn faults(&self) -> Option<Faults> {
        let faults = Faults::open(self.root);
        faults.map_err(|error| (self.tell)(Told::FaultsUnheard(&error))).ok()
    }

    /// The node that the guest is to be on: what its document demands, or the place of its devices,
    /// which is no more than a wish.
    fn wanted_node(&self, choice: &Choice) -> Option<u32> {
        let memory = &self.guest.memory;
        memory.numa.or_else(|| choice.memory_node.filter(|_| memory.nodes.is_empty()))
    }

    /// The nodes of this host that the guest's own nodes are to be on; what is missing is told.
    fn own_nodes(&self) -> BTreeSet<u32> {
        let named: BTreeSet<u32> =
            self.guest.memory.nodes.iter().filter_map(|node| node.numa).collect();
        let present = named.into_iter().filter(|node| match Node::find(self.root, *node) {
            Ok(_) => true,
            Err(cause) => {
                (self.tell)(Told::Memory(&cause));
                false
            }
        });
        present.collect()
    }

    /// That node for its memory, if this host has it.
    fn node(&self, choice: &Choice) -> Option<Node> {
        let found = Node::find(self.root, self.wanted_node(choice)?);
        match (found, self.guest.memory.numa) {
            (Ok(node), Some(_)) => Some(node),
            (Ok(node), None) => Some(node.preferred()),
            (Err(cause), Some(_)) => {
                (self.tell)(Told::Memory(&cause));
                None
            }
            // A device's node of which the kernel has no memory.
            (Err(_), None) => None,
        }
    }

    fn system(&self, tried: &str, error: &io::Error) -> Failure {
        error::system(self.guest, tried, error)
    }
}
