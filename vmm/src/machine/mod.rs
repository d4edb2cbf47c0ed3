//! The machine: built from a spec in one order, then run until the guest stops.
//!
//! ```text
//! KVM ─ VM ─ interrupt controllers ─ RAM into slots ─┬─ kernel into RAM ───────────────┬─►
//!                                                    └─ devices opened, RAM pinned …──┘
//!   ─ vCPUs ─ (run) a thread per vCPU; this thread puts devices on the bus ─ serves the event loop
//! ```
//! Devices may still be reset, and RAM be pinned, when the vCPUs run: see [`crate::vfio::arrival`].
//!
//! Whoever stops the machine says why through [`crate::devices::power::Stop`]; the first reason
//! counts. The process ends then, and the kernel takes VM, pins and devices down with it.

mod bind;
pub mod board;
mod check;
mod cpuid;
pub mod event_loop;
pub mod exits;
pub mod hotplug;
pub mod interrupts;
#[allow(unsafe_code)]
mod kvm;
mod kvm_stats;
pub mod latch;
pub mod layout;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod nodes;
pub mod pause;
pub mod stats;
pub mod vcpu;

use std::fs::File;
use std::mem::{ManuallyDrop, take};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::control::Controls;
use crate::descriptor::{Inherited, borrow};
use crate::devices::hotplug::Controller;
use crate::devices::power::{self, Keyboard, Power, Stop};
use crate::devices::serial::{self, Console};
use crate::error::{Result, Trying};
use crate::event::Reporter;
use crate::machine::board::Board;
use crate::machine::cpuid::Cpuid;
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::machine::hotplug::Hotplug;
use crate::machine::interrupts::Interrupts;
use crate::machine::latch::Latch;
use crate::machine::layout::{
    ECAM_BASE, ECAM_SIZE, HYPERTRANSPORT, KVM_IDENTITY_MAP, KVM_TSS, Layout, WINDOW_32, WINDOW_IO,
};
use crate::machine::memory::Slots;
use crate::machine::pause::Pause;
use crate::machine::stats::{Counters, Statistics};
use crate::machine::vcpu::{Buses, Vcpu};
use crate::pci::bar::{Allocator, Windows};
use crate::pci::gate::Gate;
use crate::pci::root::RootComplex;
use crate::sandbox::{self, Kind};
use crate::spec::{Bound, Descriptor, GuestEvent, GuestSpec, Phase, StopReason, VfioDevice, Vsock};
use crate::timeline::Timeline;
use crate::vfio::arrival::{self, Opening};
use crate::vfio::dma::IoSpace;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::Block;
use crate::virtio::console::VirtioConsole;
use crate::virtio::net::Config;
use crate::{boot, control, devices};

/// What is made before the process is shut in.
pub struct Prepared {
    disks: Vec<Arc<Block>>,
}

/// A guest that is ready to run.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    bound: Vec<Bound>,
    arriving: Option<Arriving>,
    buses: Buses,
    events: Arc<EventLoop>,
    stop: Arc<Stop>,
    controls: Arc<Controls>,
    reporter: Arc<Reporter>,
    disks: Vec<Arc<Block>>,
    // When the VM's descriptor is closed, KVM lets go of all events, also while vCPUs run.
    _vm: Arc<VmFd>,
}

impl Machine {
    /// Checks the spec, and makes what cannot be made any more once the process is shut in. Nothing of
    /// the guest is looked at.
    ///
    /// # Errors
    /// The first thing that is wrong or refused.
    pub fn prepare(
        spec: &GuestSpec,
        inherited: &mut Inherited,
        reporter: &Arc<Reporter>,
    ) -> Result<Prepared> {
        check::check(spec)?;
        let disks = spec.disks.iter().map(|disk| {
            let file = inherited.take(disk.file, &format!("the file of disk {}", disk.name))?;
            Ok(Arc::new(Block::new(file, disk, reporter.clone())?))
        });
        Ok(Prepared { disks: disks.collect::<Result<_>>()? })
    }

    /// Builds everything, up to the first instruction.
    ///
    /// # Errors
    /// The first thing that is wrong or refused; nothing has run by then.
    pub fn build(
        spec: &GuestSpec,
        Prepared { disks }: Prepared,
        inherited: &mut Inherited,
        reporter: &Arc<Reporter>,
    ) -> Result<Self> {
        disks.iter().try_for_each(|disk| disk.open())?;
        let timeline = Arc::new(Timeline::default());
        let creating = timeline.begin(Phase::CreateVm, None);
        let kvm = kvm::open(inherited.take(spec.kvm, "/dev/kvm")?)?;
        let vm = Arc::new(kvm.create_vm().kvm("create a VM")?);
        vm.set_identity_map_address(KVM_IDENTITY_MAP).kvm("place its identity map")?;
        vm.set_tss_address(KVM_TSS as usize).kvm("place its TSS")?;
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).kvm("list CPU features")?;
        let mut reserved =
            spec.vfio.iter().flat_map(|vfio| vfio.reserved.clone()).collect::<Vec<_>>();
        if cpuid::is_amd(&supported) {
            reserved.push(HYPERTRANSPORT);
        }
        let cpuid = Cpuid::new(&supported, &spec.cpus)?;
        let layout = Layout::new(spec.memory.bytes, cpuid::physical_bits(&supported), &reserved)?;

        let interrupts = Arc::new(Interrupts::new(vm.clone())?);
        let slots = Arc::new(Slots::new(vm.clone(), kvm.get_nr_memslots() as u32));
        let memory = memory::allocate(&layout, &spec.memory)?;
        memory::give_to_guest(&slots, &memory)?;

        let events = Arc::new(EventLoop::new()?);
        let stop = stop(&events)?;
        let buses = Buses { memory: Arc::default(), ports: Arc::default() };
        add_console(spec, inherited, &buses, &interrupts, &events)?;
        let (controller, power) = event_device(&buses, &interrupts, &stop)?;
        let board = Board {
            slots,
            memory: memory.clone(),
            buses: buses.clone(),
            interrupts: interrupts.clone(),
            lines: interrupts.clone(),
            doorbells: vm.clone(),
            root: Arc::new(RootComplex::new()),
            packed_rings: spec.packed_rings,
            windows: Windows { low: WINDOW_32, high: layout.window_64.clone(), ports: WINDOW_IO },
            events: events.clone(),
            timeline: timeline.clone(),
        };
        timeline.end(creating);
        let kernel = File::from(inherited.take(spec.boot.kernel, "the kernel")?);
        let initrd = spec.boot.initrd.map(|file| inherited.take(file, "the initrd")).transpose()?;
        let apic_ids: Vec<u8> = (0..spec.cpus.count).map(|vcpu| cpuid.apic_id(vcpu)).collect();
        let load = || {
            let loading = timeline.begin(Phase::LoadKernel, None);
            boot::acpi::write(&memory, &layout, &apic_ids, &spec.memory.nodes)?;
            let initrd = initrd.map(File::from);
            let entry = boot::prepare(&memory, &layout, kernel, initrd, &spec.boot.cmdline)?;
            timeline.end(loading);
            Ok(entry)
        };
        let (entry, passed) = match spec.vfio.clone() {
            Some(vfio) => {
                let (space, arrivals) = IoSpace::new(&vm, &vfio, inherited)?;
                let pinned = arrival::pin(&space, &memory, &stop, &timeline, reporter)?;
                let opening = Opening::begin(arrivals, &timeline)?;
                (load()?, Some(Passed { space, pinned, opening, described: vfio.devices }))
            }
            None => (load()?, None),
        };
        let creating = timeline.begin(Phase::CreateVcpus, None);
        let networks = spec.networks.iter().map(|network| {
            let mut all = |descriptors: &[Descriptor], what| {
                let taken = descriptors.iter().map(|one| inherited.take(*one, what));
                taken.collect::<Result<Vec<_>>>()
            };
            let (taps, vhosts) = (all(&network.taps, "a TAP")?, all(&network.vhosts, "vhost-net")?);
            Ok(Card { config: Config::new(network.mac, taps.len() as u16), taps, vhosts })
        });
        let networks = networks.collect::<Result<Vec<_>>>()?;
        let links = networks.iter().map(|card| card.config.clone()).collect();
        let sockets = |vsock: Vsock| Ok((inherited.take(vsock.vhost, "vhost-vsock")?, vsock.cid));
        let vsock = spec.vsock.map(sockets).transpose()?;
        let ports = spec.ports.iter().map(|port| {
            let socket =
                inherited.take(port.socket, &format!("the socket of port {}", port.name))?;
            Ok((port.clone(), socket))
        });
        let ports = ports.collect::<Result<Vec<_>>>()?;
        let has_ports = !ports.is_empty();
        let ports = has_ports.then(|| VirtioConsole::new(ports).map(Arc::new)).transpose()?;
        let control = spec.control.map(|socket| inherited.take(socket, "the control socket"));
        let control = control.transpose()?;
        let root = board.root.clone();
        let gate = Arc::new(Gate::new(root.clone(), timeline.clone()));
        insert(&buses.memory, ECAM_BASE, ECAM_SIZE, gate.clone());
        let balloon = spec.balloon.map(|balloon| Balloon::new(spec.memory.bytes, balloon.target));
        let balloon = balloon.transpose()?.map(Arc::new);
        let kept = disks.clone();
        let arriving = Some(Arriving {
            passed,
            networks,
            disks,
            rng: spec.rng,
            vsock,
            balloon: balloon.clone(),
            ports: ports.clone(),
            control,
            gate,
        });
        let hotplug = Hotplug::new(vm.clone(), board, controller, reporter.clone())?;

        let mut counters = Counters::new(&vm);
        let vcpus = (0..spec.cpus.count)
            .map(|index| {
                let id = cpuid.apic_id(index).into();
                let descriptor = vm.create_vcpu(id).kvm("create a vCPU")?;
                let cpuid = cpuid.of(index)?;
                let exits = counters.add(&descriptor);
                Vcpu::new(descriptor, index, &cpuid, &entry, exits)
            })
            .collect::<Result<_>>()?;
        timeline.end(creating);
        let statistics = Statistics { counters, root, hotplug, balloon, ports, memory, timeline };
        let controls = Arc::new(Controls { statistics, power, pause: Pause::new()?, links });
        let reporter = reporter.clone();
        let bound = spec.cpus.bound.clone();
        let disks = kept;
        Ok(Machine {
            vcpus,
            bound,
            arriving,
            buses,
            events,
            stop,
            controls,
            reporter,
            disks,
            _vm: vm,
        })
    }

    /// Starts the vCPUs, puts the devices on the bus, and serves the guest until it stops. The vCPUs'
    /// threads are not waited for and may still run then: the process is expected to end.
    ///
    /// # Errors
    /// Where a device cannot be had, a thread cannot be started or waiting fails.
    pub fn run(mut self) -> Result<StopReason> {
        let (vcpus, arriving) = (take(&mut self.vcpus), self.arriving.take());
        let mut bound = take(&mut self.bound);
        // Never dropped: vCPUs that still run write to the guest's RAM, and whatever came to lie in
        // its place in this process would be written over.
        let machine = ManuallyDrop::new(self);
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (buses, stop) = (machine.buses.clone(), machine.stop.clone());
            // The others wait for the first.
            let begins = (index == 0)
                .then(|| (machine.controls.statistics.timeline.clone(), machine.reporter.clone()));
            let controls = machine.controls.clone();
            let at = bound.iter().position(|bound| usize::from(bound.vcpu) == index);
            let bound = at.map(|at| bound.swap_remove(at));
            let work = move || {
                if let Some(Err(detail)) = bound.as_ref().map(bind::bind) {
                    return stop.request(StopReason::Failed { detail });
                }
                if let Some((timeline, reporter)) = begins {
                    timeline.mark(Phase::RunVcpus);
                    reporter.send(&GuestEvent::Started);
                }
                stop.request(run_vcpu(vcpu, &buses, &controls.pause, &stop));
            };
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(work)
                .system("start a vCPU's thread")?;
            machine.controls.pause.add(thread);
        }
        let received = arriving.map_or(Ok(()), |arriving| machine.receive(arriving));
        // The guest may have stopped before, and the first reason counts.
        if let (Err(error), None) = (received, machine.stop.reason()) {
            return Err(error);
        }
        let accepts = machine.controls.statistics.ports.is_some();
        sandbox::restrict(Kind::Events { accepts });
        let reason = machine.events.run(|| machine.stop.reason());
        machine.disks.iter().for_each(|disk| disk.close());
        reason
    }

    /// Puts all devices on the PCI bus, passed-through ones first, lets the guest find them, and lets
    /// the launcher add others.
    fn receive(&self, arriving: Arriving) -> Result<()> {
        let Arriving { passed, networks, disks, rng, vsock, balloon, ports, control, gate } =
            arriving;
        let Statistics { hotplug, timeline, .. } = &self.controls.statistics;
        let board = hotplug.board();
        let mut allocator = Allocator::new(board.windows.clone());
        let opened = match passed {
            Some(Passed { space, pinned, opening, described }) => {
                let devices = described.into_iter().zip(opening.wait()?);
                Some((space, pinned, devices.collect()))
            }
            None => None,
        };
        let adding = timeline.begin(Phase::AddDevices, None);
        if let Some((space, pinned, devices)) = opened {
            hotplug.settle(space, pinned, devices, &mut allocator)?;
        }
        for Card { taps, vhosts, config } in networks {
            board.add_network(taps, vhosts, config, &mut allocator)?;
        }
        for disk in disks {
            disk.start(&self.stop)?;
            board.add_virtio(disk, &mut allocator)?;
        }
        if rng {
            board.add_rng(&mut allocator)?;
        }
        if let Some((vhost, cid)) = vsock {
            board.add_vsock(vhost, cid, &mut allocator)?;
        }
        if let Some(balloon) = balloon {
            balloon.listen(&board.events)?;
            board.add_virtio(balloon, &mut allocator)?;
        }
        if let Some(ports) = ports {
            ports.listen(&board.events)?;
            board.add_virtio(ports, &mut allocator)?;
        }
        timeline.end(adding);
        gate.open();
        if let Some(control) = control {
            control::serve(control, self.controls.clone())?;
        }
        Ok(())
    }
}

/// Runs a vCPU to its end. A bug of ours that it meets stops the machine, instead of leaving a
/// guest that waits for a CPU.
fn run_vcpu(mut vcpu: Vcpu, buses: &Buses, pause: &Pause, stop: &Stop) -> StopReason {
    let run = || {
        sandbox::restrict(Kind::Vcpu);
        vcpu.run(buses, pause, stop)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| StopReason::Failed {
        detail: "a vCPU's thread panicked; this is a bug".into(),
    })
}

/// Wakes the event loop so that it sees the reason to stop.
struct Wake(Arc<Stop>);

impl Ready for Wake {
    fn ready(&self, _token: u32) {
        let _ = self.0.event().read();
    }
}

fn stop(events: &EventLoop) -> Result<Arc<Stop>> {
    let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
    let stop = Arc::new(Stop::new(event));
    let wake = Arc::new(Wake(stop.clone()));
    events.add(borrow(stop.event()), Trigger::Level, wake, 0)?;
    Ok(stop)
}

fn add_console(
    spec: &GuestSpec,
    inherited: &mut Inherited,
    buses: &Buses,
    interrupts: &Interrupts,
    events: &EventLoop,
) -> Result<()> {
    let output = inherited.take(spec.console.output, "the console's output")?;
    let input = spec.console.input.map(|input| inherited.take(input, "the console's input"));
    let input = input.transpose()?.map(File::from);
    let line = EventFd::new(EFD_CLOEXEC).system("create an event")?;
    interrupts.connect_pin(serial::PIN, &line)?;
    let console = Arc::new(Console::new(line, input, File::from(output))?);
    console.listen(events)?;
    insert(&buses.ports, serial::PORT.into(), serial::PORTS.into(), console);
    Ok(())
}

/// The registers through which the guest hears of devices that come and go and of its power button,
/// and those by which it stops the machine.
fn event_device(
    buses: &Buses,
    interrupts: &Interrupts,
    stop: &Arc<Stop>,
) -> Result<(Arc<Controller>, Arc<Power>)> {
    let line = EventFd::new(EFD_CLOEXEC).system("create an event")?;
    interrupts.connect_pin(devices::hotplug::PIN, &line)?;
    let power = Power::new(stop.clone(), line.try_clone().system("share an event")?);
    let (controller, power) = (Arc::new(Controller::new(line)), Arc::new(power));
    let keyboard = Arc::new(Keyboard(stop.clone()));
    let (port, ports) = (devices::hotplug::PORT.into(), devices::hotplug::PORTS.into());
    insert(&buses.ports, port, ports, controller.clone());
    insert(&buses.ports, power::PORT.into(), power::PORTS.into(), power.clone());
    insert(&buses.ports, power::KEYBOARD_PORT.into(), 1, keyboard);
    Ok((controller, power))
}

/// A virtio network card, as far as it was handed to us.
struct Card {
    taps: Vec<OwnedFd>,
    vhosts: Vec<OwnedFd>,
    config: Arc<Config>,
}

/// What is there only once the vCPUs run.
struct Arriving {
    passed: Option<Passed>,
    networks: Vec<Card>,
    disks: Vec<Arc<Block>>,
    rng: bool,
    /// `/dev/vhost-vsock`, and the guest's CID.
    vsock: Option<(OwnedFd, u32)>,
    balloon: Option<Arc<Balloon>>,
    ports: Option<Arc<VirtioConsole>>,
    control: Option<OwnedFd>,
    gate: Arc<Gate>,
}

/// Devices that are being opened, each with what is said of it.
struct Passed {
    space: Arc<IoSpace>,
    pinned: Arc<Latch>,
    opening: Opening,
    described: Vec<VfioDevice>,
}

/// Puts a device where the fixed layout has room for it.
fn insert(bus: &Bus, base: u64, length: u64, device: Arc<dyn crate::bus::Access>) {
    let inserted = bus.insert(base, length, device);
    debug_assert!(inserted.is_ok(), "the fixed layout overlaps at {base:#x}");
}
