//! Makes the configuration of a server and the scope of its tickets from one statement, so that
//! they cannot disagree: rustls does not tell of a finished configuration whether it asks clients
//! for certificates, and by whom these may be issued.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use stek_core::derive::Use;
use stek_core::scope::{ChainRule, ClientAuth, ClientCa, Scope, ScopeError};

use crate::acceptor::Acceptor;
use crate::glue::rustls_0_23;
use crate::keys::TicketKeys;
use crate::metrics::TicketMetrics;
use crate::nonce::PooledNonces;
use crate::resumption::Resumption;
use crate::rules::{ResumeClientAuth, ResumeTls12, Rules};
use crate::sealer::Sealer;

/// What a server is to be; makes its [`Acceptor`].
///
/// All servers of the fleet that say the same here, under the same keyset, resume each other's
/// sessions; servers that demand something else of clients never do. Whatever is not said is as
/// rustls has it, except that nothing but sessions of the fleet resumes: there is no session cache
/// in the process, and no 0-RTT unless [`resumption`](Self::resumption) says so.
#[must_use = "a builder makes an acceptor only when asked to build"]
pub struct ServerBuilder<'a> {
    label: String,
    keys_for: KeysFor<'a>,
    metrics: TicketMetrics,
    certificate: Certificate,
    clients: Clients,
    server_names: Vec<String>,
    policy_epoch: u64,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    provider: Option<Arc<CryptoProvider>>,
    time: Option<Arc<dyn TimeProvider>>,
    configure: Configure<'a>,
    resumption: Resumption,
    rules: Rules,
}

type KeysFor<'a> = Box<dyn FnOnce(Use, &Scope) -> Arc<TicketKeys> + 'a>;
type Configure<'a> = Box<dyn FnOnce(&mut ServerConfig) + 'a>;

enum Certificate {
    Missing,
    Single(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    Resolver(Arc<dyn ResolvesServerCert>),
}

enum Clients {
    Unasked,
    IssuedBy { roots: RootCertStore, mode: ClientAuth },
    Verifier { verifier: Arc<dyn ClientCertVerifier>, roots: RootCertStore, rule: String },
}

/// Why there is no server of that kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Neither a certificate nor a resolver was given.
    #[error("the server has no certificate")]
    NoCertificate,
    /// A certificate and its key, or versions and cipher suites, do not fit together.
    #[error("the server cannot speak TLS like this")]
    Tls(#[source] rustls::Error),
    /// The roots for client certificates are empty, though certificates are asked for, or cannot be
    /// used.
    #[error("client certificates cannot be verified")]
    Clients(#[source] VerifierBuilderError),
    /// The verifier tells clients of other authorities than those of the given roots, so it may
    /// trust others.
    #[error("the verifier of client certificates names other authorities than its roots")]
    RootsDiffer,
    /// The rule of a verifier of client certificates has no name.
    #[error("the rule of the verifier of client certificates has no name")]
    UnnamedRule,
    /// The scope has too many parts or too long ones.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A prebuilt configuration came with a scope that does not cap chains of resumption.
    #[error("scope {label:?} does not cap chains of resumption, an acceptor does")]
    Unbounded {
        /// The label of the scope.
        label: String,
    },
    /// The keys that were given are for another use than this way of resuming, or another scope.
    #[error("keys of scope {label:?} are not for such a server")]
    UnfitKeys {
        /// The label of their scope.
        label: String,
    },
    /// TLS 1.2 sessions were to resume, and to be kept in a store, where they cannot be taken once.
    #[error("tls 1.2 sessions resume by tickets only, not from a store")]
    StoredTls12,
}

impl<'a> ServerBuilder<'a> {
    /// A server whose tickets stay within `label`. The keys for its use and scope are asked of
    /// `keys_for` when it is built, and fed by whoever gave them; `Fleet::server` does all that.
    pub fn with_keys(
        label: &str,
        metrics: TicketMetrics,
        keys_for: impl FnOnce(Use, &Scope) -> Arc<TicketKeys> + 'a,
    ) -> Self {
        Self {
            label: label.to_owned(),
            keys_for: Box::new(keys_for),
            metrics,
            certificate: Certificate::Missing,
            clients: Clients::Unasked,
            server_names: Vec::new(),
            policy_epoch: 0,
            versions: rustls::DEFAULT_VERSIONS.to_vec(),
            alpn: Vec::new(),
            provider: None,
            time: None,
            configure: Box::new(|_| ()),
            resumption: Resumption::default(),
            rules: Rules::default(),
        }
    }

    /// Shows every client this chain, its own certificate first.
    pub fn certificate(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        self.certificate = Certificate::Single(chain, key);
        self
    }

    /// Shows each client what `resolver` chooses. A session resumes only for the server name under
    /// which it was begun.
    pub fn certificate_resolver(mut self, resolver: Arc<dyn ResolvesServerCert>) -> Self {
        self.certificate = Certificate::Resolver(resolver);
        self
    }

    /// Refuses clients without a certificate issued under `roots`. Such a server gives no tickets
    /// unless told to: [`resume_client_auth_without_verifying_again`].
    ///
    /// [`resume_client_auth_without_verifying_again`]: Self::resume_client_auth_without_verifying_again
    pub fn require_client_certificates(mut self, roots: RootCertStore) -> Self {
        self.clients = Clients::IssuedBy { roots, mode: ClientAuth::Required };
        self
    }

    /// Asks clients for a certificate issued under `roots`, and serves those without one too. As to
    /// tickets, [`require_client_certificates`](Self::require_client_certificates).
    pub fn request_client_certificates(mut self, roots: RootCertStore) -> Self {
        self.clients = Clients::IssuedBy { roots, mode: ClientAuth::Optional };
        self
    }

    /// Verifies clients by `verifier`, one with revocation lists for example, that trusts `roots`
    /// and nothing else; subjects, keys and name constraints of these go into the scope.
    ///
    /// rustls lets a verifier tell only the subjects of what it trusts, or none (a
    /// `WebPkiClientVerifier` without root hints). If it tells others than those of `roots` nothing
    /// is built; that the keys are the same is up to you.
    ///
    /// Nor does it tell what else it demands. `rule` names that, such as `"crl"` or
    /// `"partners by name"`, in 1 to 255 bytes that go into the scope too. **Verifiers that judge
    /// differently need different names,** or who passed the one resumes past the other; and when
    /// a rule becomes stricter under its old name, raise [`policy_epoch`](Self::policy_epoch).
    pub fn client_cert_verifier(
        mut self,
        verifier: Arc<dyn ClientCertVerifier>,
        roots: RootCertStore,
        rule: &str,
    ) -> Self {
        self.clients = Clients::Verifier { verifier, roots, rule: rule.to_owned() };
        self
    }

    /// Lets clients that have proved a certificate resume, **which does not verify it again**: a
    /// certificate that is revoked meanwhile, or an authority that is or that ends, goes on being
    /// let in until the session lifetime is over or the client's own certificate ends (`notAfter`),
    /// whichever is first.
    ///
    /// What ends such sessions at once: removing the authority from the roots, or raising
    /// [`policy_epoch`](Self::policy_epoch).
    pub fn resume_client_auth_without_verifying_again(mut self) -> Self {
        self.rules.client_auth = ResumeClientAuth::WithoutVerifyingAgain;
        self
    }

    /// Lets TLS 1.2 sessions resume, **which seals one master secret again and again**: who steals
    /// any one of the keys under which it was sealed reads all connections of the session, earlier
    /// and later ones, for TLS 1.2 resumption has no forward secrecy.
    ///
    /// Bounded by the session lifetime and by two rotation periods after the full handshake,
    /// whichever is first. Without this, TLS 1.2 connections are served and never resume.
    #[cfg(feature = "tls12")]
    pub fn resume_tls12_resealing_one_master_secret(mut self) -> Self {
        self.rules.tls12 = ResumeTls12::TwoRotations;
        self
    }

    /// Keeps tickets of servers for other names apart, beyond the label.
    pub fn server_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.server_names = names.into_iter().map(Into::into).collect();
        self
    }

    /// Raise it to end all sessions that were let in under an older rule.
    pub fn policy_epoch(mut self, epoch: u64) -> Self {
        self.policy_epoch = epoch;
        self
    }

    /// The protocol versions served; those of rustls if not said.
    pub fn protocol_versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// The application protocols served, by preference.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The cryptography of handshakes and connections. If not said, that of the process or, without
    /// one, aws-lc-rs. Tickets do not use it.
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The clock by which client certificates are verified; the system's if not said.
    pub fn time_provider(mut self, time: Arc<dyn TimeProvider>) -> Self {
        self.time = Some(time);
        self
    }

    /// Lets `hook` set what this builder has no method for. It may do with the configuration what it
    /// likes; taken over are these fields alone: `ignore_client_order`, `max_fragment_size`,
    /// `key_log`, `enable_secret_extraction`, `send_half_rtt_data`, `send_tls13_tickets`,
    /// `max_tls13_tickets`, `cert_compressors`, `cert_compression_cache`, `cert_decompressors` and,
    /// with the feature `tls12`, `require_ems`. Nobody gets in or resumes by any of them who would
    /// not otherwise.
    ///
    /// So nothing else gets in, not even by exchanging the whole configuration: ticketer, session
    /// storage and early data are [`resumption`](Self::resumption)'s, certificate, clock,
    /// cryptography and the verifier of clients have methods of their own.
    pub fn configure(mut self, hook: impl FnOnce(&mut ServerConfig) + 'a) -> Self {
        self.configure = Box::new(hook);
        self
    }

    /// How sessions resume: by tickets if not said.
    pub fn resumption(mut self, resumption: Resumption) -> Self {
        self.resumption = resumption;
        self
    }

    /// How many offered tickets are decrypted for one connection; 4 if not said. With a store it is
    /// one look-up, whatever is said here, because the handshake waits for it.
    pub fn max_tries_per_connection(mut self, tries: NonZeroU32) -> Self {
        self.rules.max_tries = tries.get();
        self
    }

    /// The server.
    ///
    /// # Errors
    /// [`BuildError`] by cause.
    pub fn build(self) -> Result<Acceptor, BuildError> {
        let usage = self.resumption.usage();
        if usage == Use::Store && self.rules.tls12 != ResumeTls12::Never {
            return Err(BuildError::StoredTls12);
        }
        let provider = self.provider.unwrap_or_else(|| {
            CryptoProvider::get_default()
                .map_or_else(|| Arc::new(aws_lc_rs::default_provider()), Arc::clone)
        });
        let resolver = self.certificate.into_resolver(&provider)?;
        let Verified { verifier, mode, authorities, rule } =
            self.clients.into_verified(&provider)?;
        let scope = Scope::try_new(&self.label, ChainRule::Capped)?
            .with_server_names(&self.server_names)?
            .with_client_auth(mode, authorities)?
            .with_client_rule(&rule)?
            .with_policy_epoch(self.policy_epoch);
        let time = self.time.unwrap_or_else(|| Arc::new(DefaultTimeProvider));
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(&self.versions)
            .map_err(BuildError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = self.alpn;
        rustls_0_23::adjust(&mut config, self.configure);
        let keys = (self.keys_for)(usage, &scope);
        if keys.scope() != &scope {
            return Err(unfit(&keys));
        }
        acceptor(config, self.resumption, keys, self.metrics, self.rules)
    }
}

impl Acceptor {
    /// A server of a configuration that was made elsewhere. **Nothing can check** that `config`
    /// demands of clients what the scope of `keys` says: if two configurations share a scope and one
    /// asks for certificates, clients without one resume past it. Sessions that visibly do not fit
    /// the scope are not resumed, which is too late to notice most mistakes.
    ///
    /// Ticketer, session storage and 0-RTT of `config` are replaced. Sessions of TLS 1.2 do not
    /// resume. Where the scope asks certificates of clients, `resume_client_auth` says whether any do.
    ///
    /// # Errors
    /// [`BuildError::Unbounded`] if the scope does not cap chains, [`BuildError::UnfitKeys`] if the
    /// keys are not for the use that `resumption` makes of them.
    pub fn with_unchecked_client_auth(
        config: ServerConfig,
        keys: Arc<TicketKeys>,
        metrics: TicketMetrics,
        resumption: Resumption,
        resume_client_auth: ResumeClientAuth,
    ) -> Result<Self, BuildError> {
        check_capped(keys.scope())?;
        let rules = Rules { client_auth: resume_client_auth, ..Rules::default() };
        acceptor(config, resumption, keys, metrics, rules)
    }
}

/// # Errors
/// [`BuildError::Unbounded`] if the scope does not cap chains.
pub(crate) fn check_capped(scope: &Scope) -> Result<(), BuildError> {
    match scope.chain() {
        ChainRule::Capped => Ok(()),
        ChainRule::Unbounded => Err(BuildError::Unbounded { label: scope.label().to_owned() }),
    }
}

fn acceptor(
    config: ServerConfig,
    resumption: Resumption,
    keys: Arc<TicketKeys>,
    metrics: TicketMetrics,
    rules: Rules,
) -> Result<Acceptor, BuildError> {
    if keys.usage() != resumption.usage() {
        return Err(unfit(&keys));
    }
    let nonces = Arc::new(PooledNonces);
    let sealer = Sealer { keys, metrics, nonces, rules, read: rustls_0_23::read };
    Ok(Acceptor::new(config, resumption, sealer))
}

fn unfit(keys: &TicketKeys) -> BuildError {
    BuildError::UnfitKeys { label: keys.scope().label().to_owned() }
}

impl Certificate {
    fn into_resolver(
        self,
        provider: &CryptoProvider,
    ) -> Result<Arc<dyn ResolvesServerCert>, BuildError> {
        match self {
            Self::Missing => Err(BuildError::NoCertificate),
            Self::Resolver(resolver) => Ok(resolver),
            Self::Single(chain, key) => {
                let certified =
                    CertifiedKey::from_der(chain, key, provider).map_err(BuildError::Tls)?;
                Ok(Arc::new(SingleCertAndKey::from(certified)))
            }
        }
    }
}

/// How clients are verified, and what of it goes into the scope.
struct Verified {
    verifier: Arc<dyn ClientCertVerifier>,
    mode: ClientAuth,
    authorities: Vec<ClientCa>,
    rule: String,
}

impl Clients {
    fn into_verified(self, provider: &Arc<CryptoProvider>) -> Result<Verified, BuildError> {
        match self {
            Self::Unasked => Ok(Verified {
                verifier: WebPkiClientVerifier::no_client_auth(),
                mode: ClientAuth::None,
                authorities: Vec::new(),
                rule: String::new(),
            }),
            Self::IssuedBy { roots, mode } => {
                let authorities = authorities(&roots);
                let builder = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(provider),
                );
                let builder = match mode {
                    ClientAuth::Required => builder,
                    _ => builder.allow_unauthenticated(),
                };
                let verifier = builder.build().map_err(BuildError::Clients)?;
                Ok(Verified { verifier, mode, authorities, rule: String::new() })
            }
            Self::Verifier { verifier, roots, rule } => {
                if rule.is_empty() {
                    return Err(BuildError::UnnamedRule);
                }
                if verifier.offer_client_auth() && roots.is_empty() {
                    return Err(BuildError::Clients(VerifierBuilderError::NoRootAnchors));
                }
                let told: BTreeSet<&[u8]> =
                    verifier.root_hint_subjects().iter().map(AsRef::as_ref).collect();
                let subjects = roots.subjects();
                let trusted = subjects.iter().map(AsRef::as_ref).collect();
                // One that tells none may trust any.
                if !told.is_empty() && told != trusted {
                    return Err(BuildError::RootsDiffer);
                }
                let mode = match (verifier.offer_client_auth(), verifier.client_auth_mandatory()) {
                    (false, _) => ClientAuth::None,
                    (true, false) => ClientAuth::Optional,
                    (true, true) => ClientAuth::Required,
                };
                Ok(Verified { verifier, mode, authorities: authorities(&roots), rule })
            }
        }
    }
}

/// What of trust anchors decides who is let in.
fn authorities(roots: &RootCertStore) -> Vec<ClientCa> {
    let ca = |anchor: &rustls::pki_types::TrustAnchor<'_>| ClientCa {
        subject: anchor.subject.to_vec(),
        spki: anchor.subject_public_key_info.to_vec(),
        name_constraints: anchor
            .name_constraints
            .as_ref()
            .map_or_else(Vec::new, |der| der.to_vec()),
    };
    roots.roots.iter().map(ca).collect()
}

impl fmt::Debug for ServerBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("label", &self.label).finish_non_exhaustive()
    }
}
