//! What a guest is told to run: the image's wishes, the release's, and Holm's, put together.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use holm_guest_control::secrets::{FOLDER, GuestSecret, GuestSecrets};
use holm_guest_control::{
    Config, GuestVolume, HealthCheck as GuestHealth, Ipv4Address, Ipv6Address, Network, Probe, RootOptions,
    parse_signal,
};
use holm_manifest::{HealthCheck, HealthProbe, SecretName, SecretUse};
use holm_model::id::InstanceName;
use holm_model::target::{InstanceSpec, SecretsTarget};
use holm_model::volume::VolumeMount;
use holm_secrets::Secrets;

use crate::volume::disk_serial;
use crate::world::{Attachment, Failure, Image};

/// How long an exited guest waits to be asked about it before it powers off by itself: as long as an agent may be away
/// and still learn how the app ended.
const LINGER_MS: u64 = 600_000;

/// Longest host name, in bytes.
const MAX_HOST_NAME: usize = 63;

/// Puts the configuration together. A command given by the release replaces the image's `Cmd`, never its `Entrypoint`.
pub(crate) fn guest_config(
    spec: &InstanceSpec,
    image: &Image,
    network: &Attachment,
    secrets: Option<GuestSecrets>,
) -> Result<Config, Failure> {
    let mut command = image.entrypoint.clone();
    command.extend(spec.command.as_ref().unwrap_or(&image.cmd).iter().cloned());
    let name = &spec.instance;
    let mut env = image.env.clone();
    env.extend(spec.config.clone());
    env.extend([
        ("HOLM_APP".to_owned(), name.app.app.to_string()),
        ("HOLM_ENV".to_owned(), name.app.env.to_string()),
        ("HOLM_INSTANCE".to_owned(), name.to_string()),
        ("HOLM_PROCESS".to_owned(), name.process.to_string()),
        ("HOLM_RELEASE".to_owned(), spec.release.to_string()),
    ]);
    if secrets.is_some() {
        env.insert("HOLM_SECRETS".to_owned(), FOLDER.to_owned());
    }
    let signal = spec.stop.signal.as_ref().or(image.stop_signal.as_ref());
    let stop_signal = match signal {
        None => 15,
        Some(text) => parse_signal(text).ok_or_else(|| Failure(format!("stop signal `{text}` is not a signal")))?,
    };
    let config = Config {
        instance: name.to_string(),
        hostname: host_name(name),
        command,
        env,
        user: image.user.clone(),
        working_dir: image.working_dir.clone(),
        stop_signal,
        grace_ms: spec.stop.grace_ms,
        memory_max: Some(spec.memory.bytes()),
        network: Some(guest_network(network)),
        // In the guest's memory: an app that fills it is told so before it goes over its cap.
        root: RootOptions { writable_max: Some(spec.memory.bytes() / 2) },
        health: spec.health.as_ref().map(guest_health),
        files: Vec::new(),
        volumes: spec.volumes.iter().map(guest_volume).collect(),
        secrets,
        linger_ms: LINGER_MS,
    };
    config.check().map_err(|error| Failure::of(&error))?;
    Ok(config)
}

fn guest_volume(mount: &VolumeMount) -> GuestVolume {
    GuestVolume { serial: disk_serial(mount.number), path: mount.path.clone() }
}

/// The values of `target` as the guest gets them, or why they cannot be delivered.
pub(crate) fn guest_secrets(target: &SecretsTarget, values: &Secrets) -> Result<GuestSecrets, Failure> {
    let missing = |(name, how): &(&SecretName, &SecretUse)| how.required && !values.0.contains_key(*name);
    if let Some((name, _)) = target.uses.iter().find(missing) {
        return Err(Failure(format!("the secret `{name}` is not set; `holm secrets set {name}` sets it")));
    }
    let plain = SecretUse::default();
    let mut secrets = BTreeMap::new();
    for (name, value) in &values.0 {
        let how = target.uses.get(name).unwrap_or(&plain);
        let text = std::str::from_utf8(value.expose()).is_ok_and(|text| !text.contains('\0'));
        if how.env && !text {
            return Err(Failure(format!("the secret `{name}` is no text and cannot be an environment variable")));
        }
        let secret =
            GuestSecret { value: value.expose().to_vec(), mode: how.mode, owner: how.owner.clone(), env: how.env };
        secrets.insert(name.to_string(), secret);
    }
    Ok(GuestSecrets { version: target.version, secrets })
}

/// The instance's name as a host name; the process type and number alone when it would be too long.
fn host_name(name: &InstanceName) -> String {
    let whole = name.to_string().replace('.', "-");
    if whole.len() <= MAX_HOST_NAME { whole } else { format!("{}-{}", name.process, name.number) }
}

fn guest_health(check: &HealthCheck) -> GuestHealth {
    GuestHealth {
        probe: match &check.probe {
            HealthProbe::Tcp { port } => Probe::Tcp { port: *port },
            HealthProbe::Http { port, path } => Probe::Http { port: *port, path: path.clone() },
            HealthProbe::Exec { command } => Probe::Exec { command: command.clone() },
        },
        interval_ms: check.interval_ms,
        timeout_ms: check.timeout_ms,
        healthy_after: 1,
        unhealthy_after: check.failures,
    }
}

fn guest_network(attachment: &Attachment) -> Network {
    match attachment {
        Attachment::Routed { mac, address, gateway, dns, .. } => Network {
            mac: Some(mac.clone()),
            v6: Some(Ipv6Address { address: *address, prefix: 128, gateway: Some(*gateway) }),
            dns: dns.clone(),
            // Instances reach each other only here.
            names: true,
            ..Network::default()
        },
        // The fixed addresses of QEMU's user network.
        Attachment::User { .. } => Network {
            v6: Some(Ipv6Address {
                address: "fec0::15".parse().expect("a literal address"),
                prefix: 64,
                gateway: Some("fec0::2".parse().expect("a literal address")),
            }),
            v4: Some(Ipv4Address {
                address: Ipv4Addr::new(10, 0, 2, 15),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            }),
            dns: vec!["10.0.2.3".to_owned(), "fec0::3".to_owned()],
            ..Network::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use holm_manifest::{Memory, StopPolicy};
    use holm_model::id::{Digest, ReleaseNumber};
    use holm_secrets::SecretValue;

    use super::*;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            instance: "hello.staging.web.7".parse().unwrap(),
            release: ReleaseNumber(3),
            image: Digest::of(b"image"),
            image_reference: String::new(),
            command: None,
            config: [("A".to_owned(), "release".to_owned()), ("HOLM_APP".to_owned(), "forged".to_owned())].into(),
            cpu_millis: 250,
            memory: Memory::from_mib(64),
            health: None,
            stop: StopPolicy::default(),
            volumes: Vec::new(),
            secrets: None,
        }
    }

    fn image() -> Image {
        Image {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["image".to_owned()],
            env: [("A".to_owned(), "image".to_owned()), ("B".to_owned(), "image".to_owned())].into(),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..Image::default()
        }
    }

    fn made(spec: &InstanceSpec, image: &Image) -> Result<Config, Failure> {
        guest_config(spec, image, &Attachment::User { forwards: BTreeMap::new() }, None)
    }

    #[test]
    fn the_release_wins_over_the_image_and_holm_over_both() {
        let config = made(&spec(), &image()).unwrap();
        assert_eq!(config.command, ["/entry", "image"]);
        let env = [
            ("A", "release"),
            ("B", "image"),
            ("HOLM_APP", "hello"),
            ("HOLM_ENV", "staging"),
            ("HOLM_INSTANCE", "hello.staging.web.7"),
            ("HOLM_PROCESS", "web"),
            ("HOLM_RELEASE", "v3"),
        ];
        assert_eq!(config.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!((config.stop_signal, config.memory_max), (3, Some(64 << 20)));
        assert_eq!(config.hostname, "hello-staging-web-7");

        let mut with_command = spec();
        with_command.command = Some(vec!["own".to_owned()]);
        with_command.stop.signal = Some("INT".to_owned());
        let config = made(&with_command, &image()).unwrap();
        assert_eq!((config.command, config.stop_signal), (vec!["/entry".to_owned(), "own".to_owned()], 2));
        assert_eq!(made(&spec(), &Image { stop_signal: None, ..image() }).unwrap().stop_signal, 15);
    }

    #[test]
    fn secrets_are_delivered_as_the_manifest_says_and_a_missing_one_is_named() {
        let value = |text: &[u8]| SecretValue::new(text);
        let name = |name: &str| name.parse::<SecretName>().unwrap();
        let how = SecretUse { required: true, env: true, mode: 0o440, owner: Some("web".to_owned()) };
        let set = "00000000-0000-7000-8000-000000000001".parse().unwrap();
        let target = SecretsTarget { version: 4, set, uses: [(name("A"), how)].into() };
        let values = Secrets([(name("A"), value(b"1")), (name("B"), value(&[0xff]))].into());
        let made = guest_secrets(&target, &values).unwrap();
        let wanted = |value: &[u8], mode, owner: Option<&str>, env| GuestSecret {
            value: value.to_vec(),
            mode,
            owner: owner.map(str::to_owned),
            env,
        };
        assert_eq!(made.version, 4);
        assert_eq!(made.secrets["A"], wanted(b"1", 0o440, Some("web"), true));
        assert_eq!(made.secrets["B"], wanted(&[0xff], 0o400, None, false));
        assert!(guest_secrets(&target, &Secrets::default()).unwrap_err().0.contains("`A` is not set"));
        let binary = Secrets([(name("A"), value(&[0xff]))].into());
        assert!(guest_secrets(&target, &binary).unwrap_err().0.contains("no text"));
    }

    #[test]
    fn what_no_guest_can_run_is_refused_with_a_reason() {
        let no_command = Image::default();
        let no_signal = Image { stop_signal: Some("SIGNOPE".to_owned()), ..image() };
        assert!(made(&spec(), &no_command).unwrap_err().0.contains("command is empty"));
        assert_eq!(made(&spec(), &no_signal).unwrap_err().0, "stop signal `SIGNOPE` is not a signal");
    }

    #[test]
    fn the_longest_instance_name_still_makes_a_host_name() {
        let long = "a".repeat(40);
        let name: InstanceName = format!("{long}.{long}.{long}.{}", u64::MAX).parse().unwrap();
        assert!(host_name(&name).len() <= MAX_HOST_NAME, "{}", host_name(&name));
    }
}
