//! Connections on which nothing moves are ended, others are not.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use distcifs_tests::faults::network::{self, Network};
use distcifs_tests::wait::{USUAL, wait_for};

use super::super::rados::Standstill;

/// Longer than it takes to be taken for one that stands still.
const LONG: Duration = Duration::from_secs(4);

fn connected(listener: &TcpListener) -> [TcpStream; 2] {
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let other = listener.accept().unwrap().0;
    one.set_nonblocking(true).unwrap();
    [one, other]
}

/// Whether it was ended: nobody has sent anything.
fn is_ended(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn a_connection_that_stands_still_is_ended() {
    if !Network::available() {
        return;
    }
    // The network goes with the thread.
    let apart = thread::spawn(|| {
        network::alone();
        let listener = TcpListener::bind((network::SERVERS, 0)).unwrap();
        let elsewhere = TcpListener::bind((network::SERVERS, 0)).unwrap();
        let ([mut sending, _far], [idle, mut telling]) = (connected(&listener), connected(&listener));
        let [mut others, _further] = connected(&elsewhere);
        let standstill = Standstill::new(vec![elsewhere.local_addr().unwrap().port()]);
        let [mut full, deaf] = connected(&listener);
        // Its peer reads nothing, but acknowledges.
        while full.write(&[0; 1 << 16]).is_ok() {}
        sending.write_all(b"heard").unwrap();
        thread::sleep(LONG);
        standstill.end();
        assert!(
            !is_ended(&sending) && !is_ended(&idle) && !is_ended(&full),
            "all is well"
        );
        let lo = |state| Command::new("ip").args(["link", "set", "lo", state]).status().unwrap();
        assert!(lo("down").success());
        others.write_all(b"not heard").unwrap();
        sending.write_all(b"not heard").unwrap();
        wait_for("the end of what stands still", USUAL, || {
            standstill.end();
            is_ended(&sending)
        });
        assert!(!is_ended(&idle) && !is_ended(&others), "well, and not Ceph's");
        assert!(lo("up").success());
        telling.write_all(b".").unwrap();
        wait_for("the other to be heard", USUAL, || {
            matches!((&idle).read(&mut [0; 1]), Ok(1))
        });
        drop(deaf);
    });
    apart.join().unwrap();
}
