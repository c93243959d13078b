package dev.pocketvlm.runtime

import ai.onnxruntime.OrtSession
import dev.pocketvlm.FinishReason
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Deferred

/** A run that was ended by [Interrupt.end]. What was computed before it stands. */
internal class Cancelled : Exception("cancelled")

/** Ends work before its end, from any thread: within a run, since ONNX Runtime looks between two operators. */
internal class Interrupt : AutoCloseable {
    /** What the runs are given. */
    val options = OrtSession.RunOptions()
    private val ended = CompletableDeferred<Unit>()
    private var isClosed = false

    @Volatile
    private var given: FinishReason? = null

    /** When the work has to end, by the clock of [now]. */
    @Volatile
    var until: Long = Long.MAX_VALUE

    /** Why the work ends, or null. */
    val reason: FinishReason?
        get() {
            if (given == null && until != Long.MAX_VALUE && now() - until >= 0) end(FinishReason.DEADLINE)
            return given
        }

    /** For who waits for something else as well. */
    val end: Deferred<Unit> get() = ended

    /** Returns at once; the first reason counts. */
    fun end(reason: FinishReason) {
        synchronized(this) {
            if (given != null) return
            given = reason
            if (!isClosed) options.setTerminate(true)
        }
        ended.complete(Unit)
    }

    /** The work has ended; [end] sets nothing of the engine's any more. */
    @Synchronized
    override fun close() {
        if (!isClosed) options.close()
        isClosed = true
    }
}
