package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.BundleTooNew
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.KvFull
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.checkLoadable
import dev.pocketvlm.bundle.openBundle
import dev.pocketvlm.images.Size
import dev.pocketvlm.runtime.Interrupt
import dev.pocketvlm.runtime.LoadedModel
import dev.pocketvlm.runtime.Meter
import dev.pocketvlm.runtime.engineOf
import dev.pocketvlm.runtime.measure
import dev.pocketvlm.runtime.restoredChat
import dev.pocketvlm.runtime.secondsSince
import dev.pocketvlm.runtime.tilingOf
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.isActive
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import java.io.File
import java.util.concurrent.ConcurrentLinkedQueue

/**
 * A loaded bundle. Any thread calls it, and any number of coroutines at once: answers of several conversations take turns,
 * token by token, on one thread of the model's own; pictures are encoded on another.
 */
public class PocketVlm private constructor(private val model: LoadedModel, public val info: BundleInfo) : AutoCloseable {
    private val single = Mutex()
    private val session = model.newSession()
    private val atClose = ConcurrentLinkedQueue<() -> Unit>()

    /** What really runs it. */
    public val backend: Backend get() = model.backend

    /**
     * A conversation of several turns, with a KV cache of its own.
     *
     * @throws ChatInvalid the model has no chat layout: [stream] continues a text
     * @throws Closed the model was closed
     */
    public fun chat(config: ChatConfig = ChatConfig()): Chat {
        model.checkOpen()
        return Chat(model, config)
    }

    /**
     * A conversation as [Chat.save] wrote it.
     *
     * @throws ChatInvalid the file is damaged, or of a conversation with another bundle
     * @throws NoMemory there is no room for its KV cache
     * @throws Closed the model was closed
     */
    public suspend fun restore(saved: File): Chat = restoredChat(model, saved)

    /**
     * The answer to one question with [images] before it, streamed. Nothing happens until it is collected; cancelling the
     * collector ends it within a run of the engine. Questions of this kind wait for one another: use chats for several
     * answers at once, and never collect one inside another.
     *
     * The flow fails with [ImageUnusable], [ChatInvalid] (images for a model that takes text only), [KvFull],
     * [NoMemory], [PocketVlmException.EngineFailed], or [Closed] where the model is closed meanwhile.
     */
    public fun stream(
        prompt: String,
        images: List<Image> = emptyList(),
        generation: GenerationConfig = GenerationConfig(),
    ): Flow<Piece> = flow {
        single.withLock {
            model.checkOpen()
            Interrupt().use { interrupt ->
                val meter = Meter(model.loadSeconds)
                val seen = images.map { Image(model.prepare(it)) }
                val rendered = model.render(listOf(Message(Role.USER, prompt, seen)))
                meter.preprocessSeconds = secondsSince(meter.asked)
                emitAll(model.answer(session, rendered, generation, interrupt, meter))
            }
        }
    }

    /** The whole answer to one question. Errors: [stream]. */
    public suspend fun ask(
        prompt: String,
        images: List<Image> = emptyList(),
        generation: GenerationConfig = GenerationConfig(),
    ): Answer = stream(prompt, images, generation).whole()

    /** How many tokens a text has, without what the chat layout puts around it. */
    public fun countTokens(text: String): Int = model.countTokens(text)

    /**
     * How a picture of so many pixels would be seen, and what it would cost, before any work.
     *
     * @throws ImageUnusable the size is out of bounds
     * @throws ChatInvalid the model takes text only
     */
    public fun preview(width: Int, height: Int): ImageTiling {
        checkSize(width, height)
        return tilingOf(Size(width, height), model.manifest)
    }

    /** Gives memory back that no answer is using; returns at once. What is needed again is loaded, or computed, again. */
    public fun trimMemory(level: Trim): Unit = model.trim(level)

    /**
     * How fast [prompt] tokens are prefilled and [tokens] more decoded behind them, [repeats] times after one that does not
     * count. Answers that are being made wait.
     *
     * @throws IllegalArgumentException the KV cache has not so many tokens
     * @throws NoMemory there is no room for its KV cache
     * @throws Closed the model was closed
     */
    public suspend fun benchmark(prompt: Int = 512, tokens: Int = 128, repeats: Int = 5): Benchmark {
        require(prompt >= 1 && tokens >= 1 && repeats in 1..MAX_REPEATS && prompt + tokens <= info.kvLength) {
            "benchmark needs a prompt and tokens of at least 1, ${info.kvLength} together, and 1 to $MAX_REPEATS repeats"
        }
        return single.withLock { measure(model, session, prompt, tokens, repeats) }
    }

    /** From any thread, at any time, without waiting: what is running ends within a run, its flow with [Closed]. */
    override fun close() {
        model.close()
        while (true) (atClose.poll() ?: return)()
    }

    /** Runs [action] once, when the model is closed. */
    internal fun whenClosed(action: () -> Unit) {
        atClose.add(action)
    }

    public companion object {
        private const val MAX_REPEATS = 1000

        /**
         * Opens, checks and loads a bundle: a directory with `manifest.json`. [onProgress] is called on a background thread.
         *
         * @throws BundleDamaged it is damaged, hostile, or no bundle
         * @throws BundleTooNew it needs a newer library
         * @throws NotPortable another runtime runs it, this library does not; or it has no engine for [Options.engine]
         * @throws NoMemory it needs more than [Options.memoryBudget] or than the device has
         */
        public suspend fun open(
            bundle: File,
            options: Options = Options(),
            onProgress: (LoadStep) -> Unit = {},
        ): PocketVlm = openAdmitted(bundle, options, onProgress) {}

        /** As [open]; [admit] may refuse what was opened and checked, before anything is loaded. */
        internal suspend fun openAdmitted(
            bundle: File,
            options: Options,
            onProgress: (LoadStep) -> Unit,
            admit: (BundleInfo) -> Unit,
        ): PocketVlm = withContext(Dispatchers.IO) {
            onProgress(LoadStep.MANIFEST)
            val opened = openBundle(bundle, options.verify) { onProgress(LoadStep.FILES) }
            checkLoadable(opened.manifest)
            engineOf(opened.manifest, options.engine)
            val info = infoOf(opened).also(admit)
            currentCoroutineContext().ensureActive()
            val model = LoadedModel.of(opened, options, onProgress)
            if (!currentCoroutineContext().isActive) model.close() // nobody would
            currentCoroutineContext().ensureActive()
            PocketVlm(model, info)
        }

        /**
         * What a bundle says of itself, as strictly read as to load it, with no engine and no native library. [verify]
         * hashes every byte of its files, which takes seconds a gigabyte.
         *
         * @throws BundleDamaged it is damaged, hostile, or no bundle
         * @throws BundleTooNew it needs a newer library
         */
        public fun inspect(bundle: File, verify: Boolean = false): BundleInfo {
            val opened = openBundle(bundle, verify)
            checkLoadable(opened.manifest)
            return infoOf(opened)
        }
    }
}

/** Collects an answer to its end. */
internal suspend fun Flow<Piece>.whole(): Answer {
    val text = StringBuilder()
    val ids = ArrayList<Int>()
    var last: Stats? = null
    collect { piece ->
        text.append(piece.text)
        if (piece.tokenId != Piece.NO_TOKEN) ids.add(piece.tokenId)
        last = piece.stats
    }
    return Answer(text.toString(), ids, checkNotNull(last))
}
