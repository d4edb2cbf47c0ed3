//! Requests of the launcher to the running machine: one message a request, answered in order.
//!
//! They are served by a thread of their own, since opening a device and pinning memory take longer
//! than the event loop may be kept from its other work.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendFlags, recvmsg, sendmsg,
};

use crate::descriptor::Inherited;
use crate::devices::power::Power;
use crate::error::{Error, Result, Trying};
use crate::machine::pause::Pause;
use crate::machine::stats::Statistics;
use crate::spec::{MAX_PASSED, MAX_REQUEST, Reply, Request};
use crate::virtio::net::Config;

/// What the launcher reaches of the machine.
pub struct Controls {
    /// What is counted, and the devices.
    pub statistics: Statistics,
    /// The power button.
    pub power: Arc<Power>,
    /// Holds the vCPUs.
    pub pause: Pause,
    /// Its virtio network cards, in the order of [`crate::spec::GuestSpec::networks`].
    pub links: Vec<Arc<Config>>,
}

/// Serves `socket` from now on, until the launcher closes its end.
///
/// # Errors
/// Where a thread cannot be started.
pub fn serve(socket: OwnedFd, machine: Arc<Controls>) -> Result<()> {
    let work = move || {
        let ended = serve_all(&socket, |request, received| answer(&machine, request, received));
        if let Err(error) = ended {
            eprintln!("assign-vmm: requests are heard no more: {error}");
        }
    };
    thread::Builder::new().name("control".into()).spawn(work).system("start a thread")?;
    Ok(())
}

fn answer(machine: &Controls, request: Request, received: &mut Inherited) -> Reply {
    let hotplug = &machine.statistics.hotplug;
    let done = match request {
        Request::Stats => return Reply::Stats(Box::new(machine.statistics.read())),
        Request::Balloon { target } => match &machine.statistics.balloon {
            Some(balloon) => balloon.set_target(target),
            None => Err(Error::Spec("the guest has no balloon".into())),
        },
        Request::PowerButton => machine.power.press(),
        Request::Reset => {
            machine.power.reset();
            Ok(())
        }
        Request::SetLink { network, up } => match machine.links.get(network) {
            Some(link) => {
                link.set_link(up);
                Ok(())
            }
            None => Err(Error::Spec(format!("the guest has no virtio network {network}"))),
        },
        Request::Pause => machine.pause.pause(),
        Request::Resume => {
            machine.pause.resume();
            Ok(())
        }
        // It would go on reaching pages that the guest has no more.
        Request::Attach { .. } if machine.statistics.balloon.is_some() => {
            Err(Error::Spec("a guest with a balloon can have no device".into()))
        }
        Request::Attach { vfio } => hotplug.attach(&vfio, received),
        Request::Ask { device } => hotplug.ask(&device),
        Request::Force { device } => hotplug.force(&device),
    };
    match done {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed { detail: error.to_string() },
    }
}

fn serve_all(
    socket: &OwnedFd,
    mut answer: impl FnMut(Request, &mut Inherited) -> Reply,
) -> Result<()> {
    let mut buffer = vec![0; MAX_REQUEST];
    while let Some((length, received)) = receive(socket, &mut buffer)? {
        let request = buffer.get(..length).map(serde_json::from_slice::<Request>);
        let reply = match request {
            Some(Ok(request)) => answer(request, &mut Inherited::received(received)),
            Some(Err(error)) => {
                Reply::Failed { detail: Error::Spec(error.to_string()).to_string() }
            }
            None => Reply::Failed { detail: "the request is too long".into() },
        };
        let text = serde_json::to_vec(&reply).map_err(std::io::Error::from);
        let text = text.system("write a reply")?;
        let bytes = [IoSlice::new(&text)];
        let nothing = &mut SendAncillaryBuffer::default();
        match sendmsg(socket, &bytes, nothing, SendFlags::NOSIGNAL) {
            // Nobody waits for it any more; the next message says so too.
            Ok(_) | Err(Errno::PIPE) => {}
            Err(error) => return Err(error).system("reply"),
        }
    }
    Ok(())
}

/// One message: its length, more than `buffer` holds where it was cut off, and its descriptors.
/// `None` at the end.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space =
        [const { std::mem::MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(MAX_PASSED))];
    let room = buffer.len();
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = match recvmsg(socket, &mut parts, &mut ancillary, flags) {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error).system("hear a request"),
        };
        let descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let descriptors: Vec<OwnedFd> = descriptors.collect();
        if message.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        let whole = !message.flags.contains(ReturnFlags::TRUNC);
        return Ok(Some((if whole { message.bytes } else { room + 1 }, descriptors)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{
        AddressFamily, SendAncillaryMessage, SocketFlags, SocketType, recv, socketpair,
    };

    use super::*;
    use crate::spec::Descriptor;

    /// What is answered to each of `messages`, which come with `passed` descriptors each.
    fn replies(
        messages: &[(&[u8], usize)],
        answer: impl FnMut(Request, &mut Inherited) -> Reply,
    ) -> Vec<Reply> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for (bytes, passed) in messages {
            let descriptors = vec![null.as_fd(); *passed];
            let mut space = [const { std::mem::MaybeUninit::uninit() };
                rustix::cmsg_space!(ScmRights(MAX_PASSED))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(*passed == 0 || ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
            sendmsg(&ours, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
        }
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Write).unwrap();
        serve_all(&theirs, answer).unwrap();
        drop(theirs);
        let mut all = Vec::new();
        let mut buffer = vec![0; MAX_REQUEST];
        while let Ok((length, _)) = recv(&ours, &mut buffer[..], RecvFlags::empty()) {
            if length == 0 {
                break;
            }
            all.push(serde_json::from_slice(&buffer[..length]).unwrap());
        }
        all
    }

    #[test]
    fn requests_are_answered_in_order_whatever_comes_between() {
        let long = vec![b' '; MAX_REQUEST + 7];
        let ask = br#"{"request":"ask","device":"0000:01:10.0"}"#;
        let answers = replies(&[(ask, 0), (b"rubbish", 2), (&long, 0), (ask, 0)], |request, _| {
            assert!(matches!(request, Request::Ask { .. }));
            Reply::Done
        });
        let Reply::Failed { detail } = &answers[1] else { panic!("{answers:?}") };
        assert!(detail.contains("description is wrong"), "{detail}");
        let Reply::Failed { detail } = &answers[2] else { panic!("{answers:?}") };
        assert!(detail.contains("too long"), "{detail}");
        assert_eq!((&answers[0], &answers[3], answers.len()), (&Reply::Done, &Reply::Done, 4));
    }

    #[test]
    fn descriptors_come_along() {
        let ask = br#"{"request":"force","device":"0000:01:10.0"}"#;
        let answers = replies(&[(ask, 3)], |_, received| {
            for place in [2, 0, 1] {
                received.take(Descriptor(place), "a group").unwrap();
            }
            received.take(Descriptor(3), "a group").unwrap_err();
            Reply::Done
        });
        assert_eq!(answers, [Reply::Done]);
    }
}
