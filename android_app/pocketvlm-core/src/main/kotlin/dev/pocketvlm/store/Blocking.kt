package dev.pocketvlm.store

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.asExecutor
import kotlinx.coroutines.suspendCancellableCoroutine
import java.io.Closeable
import kotlin.coroutines.resumeWithException

private val threads = Dispatchers.IO.asExecutor()

/**
 * The result of [work], which runs on another thread and cannot be interrupted. A caller that is cancelled goes on at
 * once; [abandoned] is then called, from yet another thread, to end the work, and a result that still comes is closed.
 */
internal suspend fun <T> blocking(abandoned: () -> Unit = {}, work: () -> T): T =
    suspendCancellableCoroutine { continuation ->
        continuation.invokeOnCancellation { threads.execute { quietly(abandoned) } }
        threads.execute {
            try {
                val result = work()
                continuation.resume(result) { _, value, _ -> (value as? Closeable)?.let { quietly(it::close) } }
            } catch (error: Throwable) {
                continuation.resumeWithException(error)
            }
        }
    }

/** Ends a connection without waiting for it: Java's own waits for whoever reads it. */
internal fun abandon(response: Closeable): Unit = threads.execute { quietly(response::close) }

private fun quietly(work: () -> Unit) {
    try {
        work()
    } catch (_: Exception) {
        // It ends something that nobody needs any more.
    }
}
