//! TCP ports that stay reserved while a server restarts.

use crate::SetupError;
use crate::place;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Ports below those that systems use for outgoing connections (from 32768 on Linux, 49152
/// elsewhere). A client's connection therefore cannot take the port of a server that is about to
/// restart.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port on 127.0.0.1. Until this value is dropped, no process of this user can reserve the port
/// again through the testbed.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn reserve() -> Result<Self, SetupError> {
        let dir = place::base()?.join("ports");
        std::fs::create_dir_all(&dir).map_err(|error| SetupError(format!("{}: {error}", dir.display())))?;
        let seed = uuid::Uuid::new_v4().as_u128();
        let start = (seed % u128::from(RANGE.end - RANGE.start)) as u16;
        for offset in 0..(RANGE.end - RANGE.start) {
            let number = RANGE.start + (start + offset) % (RANGE.end - RANGE.start);
            let path = dir.join(number.to_string());
            let lock = File::create(&path).map_err(|error| SetupError(format!("{}: {error}", path.display())))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(SetupError(format!("no TCP port from {} up to, but not including, {} is free", RANGE.start, RANGE.end)))
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
