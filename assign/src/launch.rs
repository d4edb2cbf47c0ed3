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

use policies::{Acs, Driver, Guest, Isolation};
use rustix::pipe::PipeFlags;
use sriov::dma_fault::{DmaFault, Faults};
use sriov::netlink::{Changed, LinkNews};
use sriov::{HostRoot, HostSnapshot, PciAddress, Scope};
use vmm::spec::{GuestEvent, Sandbox, StopReason};

use self::console::Console;
use self::handles::{BootFiles, Opened};
use self::lease::{Lease, Taken, Unused};
use self::links::Links;
use self::numa::Node;
use self::placement::Placement;
use self::process::{Begins, Near, Vmm};
use self::session::{Ending, Host};
use self::spec::Parts;
use self::supervisor::Supervisor;
use self::timeline::Moment;
pub use self::timeline::Timeline;
pub use self::vfio::Interface;
use self::vfio::{Has, NotOpened, VfioFiles};
use self::vsock::Vsock;
use crate::apply::leases;
use crate::cgroup::Group;
use crate::choose::{self, ByForce, Choice, Connection, Device, Offer, Previous, World};
use crate::control::stats::{Entry, Launching};
use crate::control::{self, Detached, Place};
use crate::failure::{Failure, OwnReason};
use crate::history::How;
use crate::plan::mac::Macs;
use crate::signals::Signals;
use crate::state::State;

/// Other launchers that may take the chosen VF before we do, until we give up.
const MOST_RACES: usize = 64;

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

/// What happens on the way.
#[derive(Debug)]
pub enum Told<'a> {
    /// By which CID the host's programs reach it over vsock.
    Vsock {
        /// Its CID.
        cid: u32,
    },
    /// How each network is connected and which devices it has; the leases are taken.
    Connected {
        /// What was chosen.
        choice: &'a Choice,
        /// By which of the kernel's interfaces the devices reach memory; none without devices.
        iommu: Option<Interface>,
    },
    /// Something about the guest's memory that is not as its document says.
    Memory(&'a str),
    /// It has more vCPUs than this host has CPUs that run, which it shares then.
    Overcommitted {
        /// How many vCPUs.
        vcpus: u8,
        /// How many CPUs.
        host_cpus: u32,
    },
    /// Which entry of the boot loader on a disk is booted.
    Boots {
        /// The disk.
        disk: &'a str,
        /// How the boot loader's menu calls the entry.
        entry: &'a str,
    },
    /// Why its kernel has to unpack itself, which takes time at each start.
    Packed(&'a str),
    /// The guest has started, and what that took.
    Timeline(&'a [Entry]),
    /// Why nothing of the guest's console is written down.
    Unwritten(&'a io::Error),
    /// The guest's console is this terminal from now on.
    Console,
    /// Its process is not shut in.
    NoSandbox,
    /// It runs, with the devices that it was given.
    Started,
    /// Why devices are of no use to the guest, which is started again without them.
    NoDevices(&'a str),
    /// The guest rebooted and is started again.
    Rebooting,
    /// Its CPUs are held.
    Paused,
    /// They go on.
    Resumed,
    /// It has ended, and has no device any more.
    Ended {
        /// How.
        how: How,
        /// What there is to say of an end that was neither its own nor asked for.
        failure: Option<&'a Failure>,
    },
    /// The running guest has these devices now.
    Attached(&'a [PciAddress]),
    /// The running guest has a device no more.
    Detached(&'a Detached),
    /// The host wants a device back: somebody is taking it from its driver.
    Wanted(PciAddress),
    /// A device met an error that it cannot recover from.
    DeviceError(&'a str),
    /// The file of a disk did not do what was asked of it.
    DiskError {
        /// The disk.
        disk: &'a str,
        /// What was tried, and the error.
        detail: &'a str,
    },
    /// A frame of the guest gets nowhere by one of its virtio networks, and its driver knows.
    NetworkDown {
        /// Its name in the guest's document.
        network: &'a str,
        /// Why, and what to do about it.
        reason: &'a str,
    },
    /// That is over.
    NetworkUp {
        /// Its name in the guest's document.
        network: &'a str,
    },
    /// A device of the guest reached for memory that is not the guest's, and was stopped.
    DmaFault(&'a DmaFault),
    /// Why nobody will be told of that.
    FaultsUnheard(&'a io::Error),
    /// Something did not work, and the guest goes on.
    Trouble(&'a Failure),
}

/// The first of the users that guests' processes are: far from those that people and services have,
/// as they are given by hand, by distributions, and by containers.
const FIRST_USER: u32 = 0x7000_0000;

/// Whom the guest's process is to be: as no other that runs, since each launcher has one guest.
fn sandbox() -> Sandbox {
    let user = FIRST_USER + std::process::id();
    Sandbox { user, group: user }
}

/// Devices that were tried and are of no use, with the reasons.
type Reasons = BTreeMap<PciAddress, String>;

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

/// A guest's networks with everything behind them that is open.
struct Connected<'a> {
    choice: Choice,
    devices: Vec<Device>,
    /// By which interface it has devices, once it has any: as long as its process lives.
    interface: Option<Interface>,
    /// Dropped before the lease: what is open cannot be given back.
    vfio: Option<VfioFiles>,
    lease: Lease<'a>,
}

impl<'c> Connected<'c> {
    /// The groups of which the guest has a device.
    fn groups(&self) -> BTreeSet<u32> {
        self.devices.iter().map(|device| device.group).collect()
    }

    /// What it holds of groups that the guest has no more.
    fn unused(&self) -> Result<Unused<'c>, Failure> {
        self.lease.unused(&self.groups())
    }
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

    /// Chooses, leases and opens. A device that cannot be opened is given back, and the choice is made
    /// again without it.
    fn connect(&self, failed: &mut Reasons) -> Result<Connected<'_>, Failure> {
        let mut races = 0;
        let claims = choose::claims(self.guest).count();
        let mut scope = self.scope();
        loop {
            let reading = Moment::now();
            let host = self.look(scope)?;
            let holders = lease::holders(self.state, self.root)?;
            let previous = self.state.choices()?;
            self.timeline.note(Launching::ReadHost, reading);
            let world = World {
                host: &host,
                offers: self.offers,
                holders: &holders,
                failed,
                previous: &previous,
                runs: false,
            };
            let choosing = || choose::choose(self.guest, world);
            let choice = self.timeline.time(Launching::ChooseDevices, choosing);
            let has_all = choice.as_ref().is_ok_and(|choice| choice.given().count() == claims);
            if !has_all && scope == Scope::Vfs {
                // Why not may have to do with what was not looked at.
                scope = Scope::Pools;
                continue;
            }
            let choice = choice.map_err(|error| error::unconnected(self.guest, &error))?;
            let devices = choice.devices();
            let (guest, host) = (&self.guest.name, &host);
            for (device, by_force) in lease::by_force(host, self.offers, &devices) {
                (self.confirm)(device, &by_force)?;
            }
            let taken = self.timeline.time(Launching::LeaseDevices, || {
                Lease::take(self.state, self.root, guest, host, self.offers, &devices)
            })?;
            let lease = match taken {
                Taken::All(lease) => lease,
                // Each round excludes one more device, so the rounds end.
                Taken::Not(device, failure) => {
                    failed.insert(device, failure.message);
                    continue;
                }
                Taken::TooLate => {
                    races += 1;
                    if races < MOST_RACES {
                        continue;
                    }
                    let message = "other launchers take every device before it can";
                    return Err(Failure::failed(OwnReason::Leased, guest, message)
                        .with_remedy("Try again."));
                }
            };
            match self.open(&devices) {
                Ok(vfio) => {
                    self.state.remember_choices(&self.remembered(host, &devices))?;
                    let iommu = vfio.as_ref().map(VfioFiles::interface);
                    (self.tell)(Told::Connected { choice: &choice, iommu });
                    return Ok(Connected { choice, devices, lease, interface: iommu, vfio });
                }
                // Each round excludes one more device, so the rounds end.
                Err(NotOpened { address, cause }) => {
                    lease.release()?;
                    failed.insert(address, cause);
                }
            }
        }
    }

    /// What this guest's devices depend on: what the host uses them for only where it may lend them, and
    /// the ways to them only where something is demanded of these.
    fn scope(&self) -> Scope {
        let lends = |offer: &Offer| offer.pool.driver == Driver::Host;
        let is_simple =
            |offer: &Offer| choose::are_vfs(&offer.pool) && offer.isolation.acs != Acs::Required;
        match self.offers {
            offers if offers.iter().any(lends) => Scope::Planning,
            offers if offers.iter().all(is_simple) => Scope::Vfs,
            _ => Scope::Pools,
        }
    }

    /// The host within this scope; nothing of it for a guest that claims nothing.
    fn look(&self, scope: Scope) -> Result<HostSnapshot, Failure> {
        match choose::claims(self.guest).next() {
            Some(_) => self.state.look_within(self.root, scope),
            None => Ok(HostSnapshot::default()),
        }
    }

    /// The same connections for the guest's next life; chosen anew where they were of no use, or
    /// somebody took a device in between.
    fn connect_again<'a>(
        &'a self,
        before: Connected<'a>,
        failed: &mut Reasons,
    ) -> Result<Connected<'a>, Failure> {
        let Connected { choice, devices, mut lease, .. } = before;
        if devices.iter().any(|device| failed.contains_key(&device.address)) {
            lease.release()?;
            return self.connect(failed);
        }
        if !lease.take_back() {
            drop(lease);
            return self.connect(failed);
        }
        let vfio = self.open(&devices).map_err(|error| error::not_opened(self.guest, &error))?;
        let interface = vfio.as_ref().map(VfioFiles::interface);
        Ok(Connected { choice, devices, lease, interface, vfio })
    }

    /// Opens the VFIO files of devices, as the policies of their pools say.
    fn open(&self, devices: &[Device]) -> Result<Option<VfioFiles>, NotOpened> {
        self.timeline.time(Launching::OpenDevices, || self.open_more(devices, &Has::default()))
    }

    /// The same for a guest that runs.
    fn open_more(&self, devices: &[Device], has: &Has) -> Result<Option<VfioFiles>, NotOpened> {
        let isolation = |device: &Device| {
            let offer =
                self.offers.iter().find(|offer| Some(&offer.pool.name) == device.pool.as_ref());
            offer.map_or_else(Isolation::default, |offer| offer.isolation)
        };
        VfioFiles::open(self.root, devices, isolation, has)
    }

    /// What is not to be tried again: the device among `used` that the VMM names, or else all devices
    /// of this host, since what keeps these from being used would keep others.
    fn of_no_use(&self, used: &[Device], named: Option<&str>, cause: &str) -> Reasons {
        let is_named = |device: &&Device| named == Some(&device.address.to_string());
        match used.iter().find(is_named) {
            Some(device) => Reasons::from([(device.address, cause.to_owned())]),
            None => {
                let all = HostSnapshot::read(self.root).functions;
                let all = all.into_iter().map(|function| function.address);
                let all = all.chain(used.iter().map(|device| device.address));
                all.map(|address| (address, cause.to_owned())).collect()
            }
        }
    }

    /// What the guest's claims have, for them to have it again.
    fn remembered(&self, host: &HostSnapshot, devices: &[Device]) -> Vec<Previous> {
        let macs = Macs::of(host);
        let previous = |device: &Device| {
            // A VF is found again by its PF.
            let address = device.vf.map_or(device.address, |vf| vf.pf);
            Some(Previous {
                guest: self.guest.name.clone(),
                claim: device.claim.clone(),
                pool: device.pool.clone()?,
                vf: device.vf,
                address,
                identity: choose::identity(&macs, host.function(address)?),
            })
        };
        devices.iter().filter_map(previous).collect()
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
        let (news, mut cards) = self.timeline.time(Launching::ConnectNetworks, || {
            let networks = &connected.choice.networks;
            let virtio = |network: &Connection| matches!(network, Connection::Virtio { .. });
            let news = links::listen(networks.iter().any(virtio))
                .map_err(|error| self.system("listen to the host's network", &error))?;
            let cards = handles::open_cards(self.root, stays.place, self.guest, networks)?;
            Ok::<_, Failure>((news, cards))
        })?;
        let links = Links::of(&mut cards).map_err(|error| self.system("share its TAPs", &error))?;
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
