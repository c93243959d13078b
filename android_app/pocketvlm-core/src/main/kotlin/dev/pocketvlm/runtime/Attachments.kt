package dev.pocketvlm.runtime

import dev.pocketvlm.Attachment
import dev.pocketvlm.Encoding
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.NoMemory
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.launch

/** A picture that was added, on its way: cut, then being encoded, or encoded. */
internal class Added(private val model: LoadedModel, image: Image, removed: (Added) -> Unit) {
    private val shownState = MutableStateFlow<Encoding>(Encoding.Waiting)
    private val started = CompletableDeferred<Encoded>()
    private var mine: Encoded? = null
    private var isGone = false

    val attachment = Attachment(image, tilingOf(image.size, model.manifest), shownState.asStateFlow()) { removed(this) }

    /** Fails where the picture cannot be cut. */
    val encoded: Deferred<Encoded> get() = started

    /** Cuts the picture, has it encoded, and follows how far that is. */
    suspend fun run() {
        try {
            val picture = model.prepare(attachment.image)
            val encoded = synchronized(this) {
                if (isGone) return
                checkNotNull(model.encoder).start(picture).also { mine = it }
            }
            started.complete(encoded)
            encoded.state.first { now ->
                show(now)
                now is Encoding.Ready || now is Encoding.Failed || now is Encoding.Removed
            }
        } catch (error: PocketVlmException) {
            fail(error)
        } catch (error: OutOfMemoryError) {
            fail(NoMemory("a picture", 0, freeMemory(), error))
        }
    }

    /** Nobody here wants it any more; [removed] before any answer used it. */
    @Synchronized
    fun release(removed: Boolean) {
        if (isGone) return
        if (removed) show(Encoding.Removed)
        isGone = true
        mine?.let { model.encoder?.release(it) }
        mine = null
    }

    private fun fail(error: PocketVlmException) {
        show(Encoding.Failed(error))
        started.completeExceptionally(error)
    }

    @Synchronized
    private fun show(now: Encoding) {
        if (!isGone) shownState.value = now
    }
}

/** The pictures of a conversation that no answer has used yet. Any thread calls it. */
internal class Attachments(private val model: LoadedModel) : AutoCloseable {
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
    private val lock = Any()
    private val waiting = ArrayList<Added>()
    private val list = MutableStateFlow<List<Attachment>>(emptyList())

    val shown: StateFlow<List<Attachment>> = list.asStateFlow()

    /**
     * Begins to cut and encode a picture.
     *
     * @throws ChatInvalid the model takes text only
     */
    fun add(image: Image): Attachment {
        val added = Added(model, image, ::remove)
        change { waiting.add(added) }
        scope.launch { added.run() }
        return added.attachment
    }

    fun all(): List<Added> = synchronized(lock) { waiting.toList() }

    /** They are asked about now. */
    fun take(used: List<Added>): Unit = change { waiting.removeAll(used.toSet()) }

    /** The question failed: they wait for another one. */
    fun giveBack(used: List<Added>): Unit = change { waiting.addAll(0, used) }

    private fun remove(added: Added) {
        change { if (waiting.remove(added)) added.release(removed = true) }
    }

    override fun close(): Unit = change {
        waiting.forEach { it.release(removed = true) }
        waiting.clear()
    }

    private fun change(work: () -> Unit): Unit = synchronized(lock) {
        work()
        list.value = waiting.map { it.attachment }
    }
}
