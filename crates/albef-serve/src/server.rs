//! Listening, and stopping without losing what was accepted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::engine::Service;
use crate::router::router;

/// Connections that are open at a time.
const CONNECTIONS: usize = 512;
/// Time in which the head of a request must have arrived.
const HEAD: Duration = Duration::from_secs(10);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened to.
    #[error("cannot listen to {address}: {cause}; choose another address with --bind")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The system refuses threads or signals.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// A model gave no answer.
    #[error("a model gave no answer: {0}")]
    WarmUp(String),
}

/// Whether an address can be listened to, before models and an index are opened for it.
///
/// # Errors
/// [`ServeError::Listen`].
pub fn check_address(address: SocketAddr) -> Result<(), ServeError> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(cause) => Err(ServeError::Listen { address, cause }),
    }
}

/// Answers requests at `address` until the process is asked to stop (SIGTERM, SIGINT), then finishes what it has
/// accepted. `started` is told the address once models have answered.
///
/// # Errors
/// If the address cannot be listened to, or a model does not answer.
pub fn serve(
    service: Service,
    address: SocketAddr,
    started: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .map_err(ServeError::Start)?;
    runtime.block_on(run(Arc::new(service), address, started))
}

async fn run(
    service: Arc<Service>,
    address: SocketAddr,
    started: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|cause| ServeError::Listen { address, cause })?;
    let own = listener.local_addr().map_err(ServeError::Start)?;
    let mut stop = std::pin::pin!(stopped()?);
    let warm = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.warm_up().await }
    });
    let (time, routes) = (service.limits.time, router(Arc::clone(&service)));
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut started = Some(started);
    let mut warm = Some(warm);
    loop {
        let warming = async {
            match warm.as_mut() {
                Some(task) => task.await,
                None => std::future::pending().await,
            }
        };
        let accepting = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            done = warming => {
                warm = None;
                match done {
                    Ok(Ok(())) => {
                        if let Some(started) = started.take() { started(own) }
                    }
                    Ok(Err(problem)) => return Err(ServeError::WarmUp(problem.detail)),
                    Err(error) => return Err(ServeError::WarmUp(error.to_string())),
                }
            }
            (permit, accepted) = accepting => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors: those of others are given back in time.
                        tracing::warn!("a connection was not accepted: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let service = TowerToHyperService::new(routes.clone());
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .serve_connection(TokioIo::new(stream), service);
                let watched = graceful.watch(connection);
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Err(error) = watched.await {
                        tracing::debug!("a connection ended early: {error}");
                    }
                });
            }
        }
    }
    drop(listener);
    tracing::info!("stopping: what was accepted is finished");
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(time) => tracing::warn!("some requests were not finished in time"),
    }
    Ok(())
}

/// Ends when the process is asked to stop.
fn stopped() -> Result<impl Future<Output = ()>, ServeError> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Start)?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}
