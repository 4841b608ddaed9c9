//! From bytes to OpenPGP packets: armor off, packets apart, nothing left over.
//!
//! It judges no key and verifies no signature. It is stricter than the library's own readers, which
//! skip what they cannot read and ignore what follows: here every byte belongs to a packet, and a
//! packet that is cut off or damaged is an error.
//!
//! It also keeps secrets out of the log: the library's reader of secret keys writes them to its log
//! at level debug, so those packets are taken apart here ([`secret_key`]).

use std::borrow::Cow;
use std::io::Read;

use pgp::armor::{BlockType, Dearmor, DearmorOptions};
use pgp::composed::PacketBodyReader;
use pgp::errors::Error;
use pgp::packet::{Packet, PacketHeader, PublicKey, PublicSubkey, SecretKey, SecretSubkey};
use pgp::types::{KeyDetails, KeyVersion, PacketLength, SecretParams, Tag};

use super::MAX_KEY_FILE;

/// Why bytes are not a key at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// More than [`MAX_KEY_FILE`] bytes.
    #[error(
        "the key file has {0} bytes, more than {MAX_KEY_FILE}: export less of it with \
         `gpg --armor --export-options export-minimal --export NAME`"
    )]
    TooLarge(usize),
    /// Neither OpenPGP packets nor an armored block of them.
    #[error("this is not an OpenPGP key, neither armored nor binary")]
    NotOpenPgp,
    /// It is cut off or damaged.
    #[error("the OpenPGP key is cut off or damaged: export it again")]
    Damaged,
    /// More than one key.
    #[error("there is more than one OpenPGP key in it: export one, by its fingerprint")]
    Several,
    /// A secret key where a public one was asked for.
    #[error(
        "this is a secret key, which must not leave its owner: give what `gpg --export` writes"
    )]
    Secret,
    /// A public key where a secret one was asked for.
    #[error("this is a public key: give what `gpg --export-secret-keys` writes")]
    Public,
    /// An OpenPGP message, a signature or a part of a key.
    #[error("this is OpenPGP data, but not a key")]
    OtherData,
    /// A key of another version than 4.
    #[error("this key is of OpenPGP version {0}, only version 4 is taken: make a new key")]
    Version(u8),
}

/// Which key is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Public,
    Secret,
}

/// Why a packet cannot be had.
pub(super) enum Unreadable {
    /// It is whole, but of a kind or version that is not known. In a key it can be skipped.
    Unknown,
    /// It is cut off or damaged. Nothing after it can be read.
    Damaged,
}

/// Reads the packets of exactly one key of that kind, armored or binary. The first is the primary
/// key, of version 4.
pub(super) fn key(bytes: &[u8], kind: Kind) -> Result<Vec<Packet>, NotAKey> {
    if bytes.len() > MAX_KEY_FILE {
        return Err(NotAKey::TooLarge(bytes.len()));
    }
    let binary = dearmor(bytes)?;
    let mut found = Vec::new();
    for packet in packets(&binary) {
        match packet {
            Ok(Packet::Marker(_) | Packet::Trust(_) | Packet::Padding(_))
            | Err(Unreadable::Unknown) => {}
            Ok(packet) => found.push(packet),
            Err(Unreadable::Damaged) => return Err(NotAKey::Damaged),
        }
    }
    let version = match (found.first(), kind) {
        (Some(Packet::PublicKey(key)), Kind::Public) => key.version(),
        (Some(Packet::SecretKey(key)), Kind::Secret) => key.version(),
        (Some(Packet::SecretKey(_)), Kind::Public) => return Err(NotAKey::Secret),
        (Some(Packet::PublicKey(_)), Kind::Secret) => return Err(NotAKey::Public),
        _ => return Err(NotAKey::OtherData),
    };
    if version != KeyVersion::V4 {
        return Err(NotAKey::Version(version.into()));
    }
    for packet in &found[1..] {
        match packet {
            Packet::PublicKey(_) | Packet::SecretKey(_) => return Err(NotAKey::Several),
            Packet::SecretSubkey(_) if kind == Kind::Public => return Err(NotAKey::Secret),
            Packet::PublicSubkey(_)
            | Packet::SecretSubkey(_)
            | Packet::UserId(_)
            | Packet::UserAttribute(_)
            | Packet::Signature(_) => {}
            _ => return Err(NotAKey::OtherData),
        }
    }
    Ok(found)
}

/// Takes packets apart. After [`Unreadable::Damaged`] there is nothing more.
pub(super) fn packets(bytes: &[u8]) -> impl Iterator<Item = Result<Packet, Unreadable>> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let packet = next(&mut rest);
        if matches!(packet, Err(Unreadable::Damaged)) {
            rest = &[];
        }
        Some(packet)
    })
}

fn next(rest: &mut &[u8]) -> Result<Packet, Unreadable> {
    let header = PacketHeader::try_from_reader(&mut *rest).map_err(|_| Unreadable::Damaged)?;
    let mut body = Vec::new();
    PacketBodyReader::new(header, &mut *rest)
        .and_then(|mut reader| reader.read_to_end(&mut body))
        .map_err(|_| Unreadable::Damaged)?;
    match header.tag() {
        Tag::SecretKey | Tag::SecretSubkey => secret_key(header, &body),
        _ => Packet::from_reader(header, &mut body.as_slice()).map_err(|error| match error {
            Error::Unsupported { .. } => Unreadable::Unknown,
            Error::InvalidPacketContent { source }
                if matches!(*source, Error::Unsupported { .. }) =>
            {
                Unreadable::Unknown
            }
            _ => Unreadable::Damaged,
        }),
    }
}

/// A secret key packet is a public key packet followed by the secret, so its two halves are read
/// separately.
fn secret_key(header: PacketHeader, body: &[u8]) -> Result<Packet, Unreadable> {
    let version = body.first().copied().map(KeyVersion::from).ok_or(Unreadable::Damaged)?;
    if version != KeyVersion::V4 {
        return Err(Unreadable::Unknown);
    }
    let framed = |tag, length: usize| {
        PacketHeader::from_parts(header.version(), tag, PacketLength::Fixed(length as u32))
            .map_err(|_| Unreadable::Damaged)
    };
    let mut rest = body;
    let public = PublicKey::try_from_reader(framed(Tag::PublicKey, 0)?, &mut rest)
        .map_err(|_| Unreadable::Damaged)?;
    let secret =
        SecretParams::from_slice(rest, version, public.algorithm(), public.public_params())
            .map_err(|_| Unreadable::Damaged)?;
    let public = &body[..body.len() - rest.len()];
    let packet = if header.tag() == Tag::SecretKey {
        PublicKey::try_from_reader(framed(Tag::PublicKey, public.len())?, public)
            .and_then(|key| SecretKey::new(key, secret))
            .map(Packet::from)
    } else {
        PublicSubkey::try_from_reader(framed(Tag::PublicSubkey, public.len())?, public)
            .and_then(|key| SecretSubkey::new(key, secret))
            .map(Packet::from)
    };
    packet.map_err(|_| Unreadable::Damaged)
}

fn dearmor(bytes: &[u8]) -> Result<Cow<'_, [u8]>, NotAKey> {
    const BEGIN: &[u8] = b"-----BEGIN PGP ";
    // A packet's first byte has its highest bit set; text has not.
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Ok(Cow::Borrowed(bytes));
    }
    match bytes.windows(BEGIN.len()).filter(|window| *window == BEGIN).count() {
        0 => return Err(NotAKey::NotOpenPgp),
        1 => {}
        _ => return Err(NotAKey::Several),
    }
    let options = DearmorOptions::new().set_limit(MAX_KEY_FILE);
    let mut dearmor = Dearmor::with_options(bytes, options);
    dearmor.read_header().map_err(|_| NotAKey::Damaged)?;
    match dearmor.typ {
        Some(BlockType::PublicKey | BlockType::PrivateKey) => {}
        _ => return Err(NotAKey::OtherData),
    }
    let mut binary = Vec::new();
    dearmor.read_to_end(&mut binary).map_err(|_| NotAKey::Damaged)?;
    Ok(Cow::Owned(binary))
}
