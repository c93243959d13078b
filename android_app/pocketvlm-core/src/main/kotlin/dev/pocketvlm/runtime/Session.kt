package dev.pocketvlm.runtime

import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.images.beginOfSpan

/**
 * A KV cache and what it holds: [keys] tell what was computed at each position ([Prompt.keys]). Its memory is taken at the
 * first answer, and may be given back between two. Only the model's text thread touches it.
 */
internal class Session(private val engine: TextEngine, private val manifest: Manifest) {
    val keys = ArrayList<Any>()
    private var held: KvCache? = null
    private var isClosed = false

    /** Whether an answer is being made with it. */
    var isBusy = false

    /** What is held, or null. */
    val cacheIfHeld: KvCache? get() = held

    /** @throws NoMemory there is no room for one */
    fun cache(): KvCache {
        check(!isClosed) { "the session is closed" }
        held?.let { return it }
        try {
            return engine.newCache().also { held = it }
        } catch (error: OutOfMemoryError) {
            throw NoMemory("the KV cache", kvBytes(manifest), freeMemory(), error)
        }
    }

    /**
     * Keeps a copy of the state here, where the model has one, to go back to.
     *
     * @throws NoMemory there is no room for one
     */
    fun keep() {
        val cache = held ?: return
        try {
            cache.states?.keep(cache.position)
        } catch (error: OutOfMemoryError) {
            throw NoMemory("a copy of the conversation's state", stateBytes(manifest), freeMemory(), error)
        }
    }

    /**
     * Forgets what is no beginning of [wanted]; how much is left. Its last token never counts: its logits are needed. Nor
     * does a span in part, by what each token sees ([lastSeen]). A state leaves less, up to its last copy.
     */
    fun rewound(wanted: List<Any>, lastSeen: IntArray): Int {
        val limit = minOf(keys.size, wanted.size - 1)
        val kept = beginOfSpan(lastSeen, (0 until limit).firstOrNull { keys[it] != wanted[it] } ?: limit)
        held?.rewind(kept)
        val left = held?.position ?: 0
        keys.subList(left, keys.size).clear()
        return left
    }

    /** Gives the cache's memory back, unless an answer is being made with it. */
    fun free() {
        if (isBusy) return
        held?.close()
        held = null
        keys.clear()
    }

    fun close() {
        isClosed = true
        isBusy = false
        free()
    }
}

/** What the JVM could still take, bytes. */
internal fun freeMemory(): Long = with(Runtime.getRuntime()) { maxMemory() - totalMemory() + freeMemory() }
