package dev.pocketvlm.runtime

import dev.pocketvlm.Encoding
import dev.pocketvlm.FinishReason
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.images.Packed
import dev.pocketvlm.images.pack
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.launch

/** A picture that is being encoded, or was: its [tokens] [tokens, hidden], which took so many [seconds]. */
internal class Encoded(val picture: Picture) {
    val state = MutableStateFlow<Encoding>(Encoding.Waiting)
    val tokens = CompletableDeferred<FloatArray>()
    val interrupt = Interrupt()

    @Volatile
    var seconds: Double = 0.0

    /** It may be tried again. */
    @OptIn(ExperimentalCoroutinesApi::class)
    val hasFailed: Boolean get() = tokens.isCompleted && tokens.getCompletionExceptionOrNull() != null

    /** Who wants it; guarded by the encoder's lock. */
    var users = 0
}

/**
 * Encodes pictures on [thread], each once, in the order in which they are asked for (arXiv 2411.10640, section 3.3). The
 * tokens of those used last are kept, in at most [cacheBytes]. Without [keepVision] the vision part's memory is given back
 * whenever no picture waits. [newline] is the learned token of packed pictures. Any thread calls it.
 */
internal class ImageEncoder(
    private val engine: VisionEngine,
    private val newline: FloatArray?,
    private val keepVision: Boolean,
    private val cacheBytes: Long,
    thread: CoroutineDispatcher,
) : AutoCloseable {
    private val scope = CoroutineScope(SupervisorJob() + thread)
    private val lock = Any()
    private val running = HashMap<String, Encoded>()
    private val kept = LinkedHashMap<String, FloatArray>(16, 0.75f, true) // the one used longest ago first
    private var isClosed = false

    /** Starts encoding a picture that is neither kept nor being encoded; who calls has to [release] it. */
    fun start(picture: Picture): Encoded {
        synchronized(lock) {
            if (isClosed) throw Closed()
            (picture.encoded ?: kept[picture.digest])?.let { return done(picture, it) }
            running[picture.digest]?.let { return it.also { it.users++ } }
            val encoded = Encoded(picture).also { it.users++ }
            running[picture.digest] = encoded
            scope.launch { encode(encoded) }
            return encoded
        }
    }

    /** The caller wants it no more; what nobody wants is not encoded to its end. */
    fun release(encoded: Encoded) {
        val isUnwanted = synchronized(lock) {
            encoded.users--
            (encoded.users <= 0 && !encoded.tokens.isCompleted).also { if (it) forget(encoded) }
        }
        if (isUnwanted) encoded.interrupt.end(FinishReason.CANCELLED)
    }

    /** Forgets the pictures that are kept. */
    fun clear(): Unit = synchronized(lock) { kept.clear() }

    /** Gives the vision part's memory back, unless a picture waits for it. On the encoder's thread, some time. */
    fun free() {
        scope.launch { if (synchronized(lock) { running.isEmpty() }) engine.free() }
    }

    /** Returns at once; what is being encoded is stopped, and the engine is closed on the encoder's thread. */
    override fun close() {
        val left = synchronized(lock) {
            isClosed = true
            kept.clear()
            running.values.toList()
        }
        for (one in left) one.interrupt.end(FinishReason.CANCELLED)
        scope.launch { engine.close() }
    }

    private fun done(picture: Picture, tokens: FloatArray): Encoded = Encoded(picture).also {
        it.interrupt.close()
        it.tokens.complete(tokens)
        it.state.value = Encoding.Ready(0.0)
    }

    private fun encode(encoded: Encoded) {
        try {
            val tokens = tokensOf(encoded)
            synchronized(lock) { if (!isClosed) keep(encoded.picture.digest, tokens) }
            encoded.state.value = Encoding.Ready(encoded.seconds)
            encoded.tokens.complete(tokens)
        } catch (cancelled: Cancelled) {
            encoded.state.value = Encoding.Removed
            encoded.tokens.completeExceptionally(Closed())
        } catch (error: PocketVlmException) {
            fail(encoded, error)
        } catch (error: OutOfMemoryError) {
            fail(encoded, NoMemory("a picture", 0, freeMemory(), error))
        } catch (error: RuntimeException) {
            fail(encoded, EngineFailed("a picture could not be encoded: $error", error))
        } finally {
            val isIdle = synchronized(lock) {
                forget(encoded)
                running.isEmpty()
            }
            encoded.interrupt.close()
            if (isIdle && !keepVision) engine.free()
        }
    }

    private fun fail(encoded: Encoded, error: PocketVlmException) {
        encoded.state.value = Encoding.Failed(error)
        encoded.tokens.completeExceptionally(error)
    }

    private fun tokensOf(encoded: Encoded): FloatArray {
        if (encoded.interrupt.reason != null) throw Cancelled()
        val start = now()
        val picture = encoded.picture
        val tiles = checkNotNull(picture.tiles) { "a picture has tiles or tokens" }
        encoded.state.value = Encoding.Running(0, tiles.count)
        val tokens = engine.encode(tiles, encoded.interrupt) { encoded.state.value = Encoding.Running(it, tiles.count) }
        val whole = picture.packed?.let { plan: Packed -> pack(tokens, plan, checkNotNull(newline)) } ?: tokens
        encoded.seconds = secondsSince(start)
        return whole
    }

    private fun forget(encoded: Encoded) {
        if (running[encoded.picture.digest] === encoded) running.remove(encoded.picture.digest)
    }

    private fun keep(digest: String, tokens: FloatArray) {
        kept[digest] = tokens
        val sizes = kept.values.sumOf { it.size * Float.SIZE_BYTES.toLong() }
        var over = sizes - cacheBytes
        val oldest = kept.entries.iterator()
        while (over > 0) {
            over -= oldest.next().value.size * Float.SIZE_BYTES.toLong()
            oldest.remove()
        }
    }
}
