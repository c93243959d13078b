package dev.pocketvlm.runtime

import dev.pocketvlm.Backend
import dev.pocketvlm.FinishReason
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Image
import dev.pocketvlm.LoadStep
import dev.pocketvlm.Message
import dev.pocketvlm.Options
import dev.pocketvlm.Piece
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.PocketVlmException.Closed
import dev.pocketvlm.PocketVlmException.ImageUnusable
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.Trim
import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.text.ChatMessage
import dev.pocketvlm.text.MAX_TOKENIZER_BYTES
import dev.pocketvlm.text.Span
import dev.pocketvlm.text.TextTokenizer
import dev.pocketvlm.text.readTokenizer
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.delay
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.FlowCollector
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.launch
import kotlinx.coroutines.selects.select
import kotlinx.coroutines.withContext
import kotlinx.coroutines.yield
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.ExecutorService
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadPoolExecutor
import java.util.concurrent.TimeUnit

/**
 * A loaded bundle's parts put together: what single answers and conversations are built of. The text engine, and all
 * sessions, belong to one thread; pictures are encoded on another.
 */
internal class LoadedModel private constructor(bundle: Bundle, options: Options, onProgress: (LoadStep) -> Unit) {
    private val start = now()
    val manifest: Manifest = bundle.manifest
    private val tokenizer: TextTokenizer
    private val parts: TextParts
    private val textThread = worker("pocketvlm-text").asCoroutineDispatcher()
    val backend: Backend

    /** Null where the model takes text only. */
    val encoder: ImageEncoder?
    val loadSeconds: Double
    private val scope = CoroutineScope(SupervisorJob() + textThread)
    private val running: MutableSet<Interrupt> = ConcurrentHashMap.newKeySet()
    private val sessions = HashSet<Session>() // the text thread's

    @Volatile
    var isClosed = false
        private set

    init {
        onProgress(LoadStep.TOKENIZER)
        tokenizer = TextTokenizer(
            readTokenizer(manifest.files.getValue(manifest.tokenizer).sha256, options.cacheDirectory) {
                bundle.read(manifest.tokenizer, MAX_TOKENIZER_BYTES)
            },
            manifest.stop + listOfNotNull(manifest.imageToken),
        )
        val runtime = OnnxRuntime(bundle, options.engineThreads, engineOf(manifest, options.engine).skipped)
        backend = runtime.backend
        val vision = manifest.vision?.let { VisionEngine(runtime, it, worker("pocketvlm-patches")) }
        try {
            if (vision != null) onProgress(LoadStep.VISION)
            if (options.keepVision) vision?.load()
            onProgress(LoadStep.DECODER)
            parts = TextParts(manifest, tokenizer, TextEngine(runtime, options.kvMemory))
        } catch (error: Throwable) {
            vision?.close()
            throw error
        }
        encoder = vision?.let { engine ->
            val newline = manifest.vision.packing?.let { floatsOf(bundle, it.newline) }
            val thread = worker("pocketvlm-images").asCoroutineDispatcher()
            ImageEncoder(engine, newline, options.keepVision, options.imageCacheBytes, thread)
        }
        loadSeconds = secondsSince(start)
        onProgress(LoadStep.READY)
    }

    /** @throws Closed the model is closed */
    fun checkOpen() {
        if (isClosed) throw Closed()
    }

    /**
     * A picture cut into tiles; one that was cut stays as it is.
     *
     * @throws ImageUnusable it is too large, or was cut for another model
     * @throws ChatInvalid the model takes text only
     */
    suspend fun prepare(image: Image): Picture {
        image.picture?.let { picture ->
            if (picture.owner == manifest.sha256) return picture
            throw ImageUnusable("the image was prepared for another model: give the picture itself")
        }
        return withContext(Dispatchers.Default) { Picture.of(checkNotNull(image.pixels), manifest) }
    }

    /** The prompt that makes the assistant answer messages whose images are all cut. Errors: [promptOf]. */
    suspend fun render(messages: List<Message>): Prompt = withContext(textThread) {
        checkOpen()
        val pictures = ArrayList<Picture>()
        val said = messages.map { message ->
            val images = message.images.map { image ->
                pictures.add(checkNotNull(image.picture))
                Span.Image(pictures.size - 1)
            }
            ChatMessage(message.role.key, images + Span.PeopleText(message.text))
        }
        synchronized(tokenizer) { promptOf(said, pictures, manifest, tokenizer) }
    }

    fun countTokens(text: String): Int = synchronized(tokenizer) {
        tokenizer.encode(listOf(Span.PeopleText(text)), atStart = false).size
    }

    fun newSession(): Session = Session(parts.engine, manifest).also { session -> onTextThread { sessions.add(session) } }

    /** Gives the session's memory back, when what runs with it has ended. */
    fun release(session: Session) = onTextThread {
        sessions.remove(session)
        session.close()
    }

    /** What only the text thread may do, some time. */
    fun onTextThread(work: () -> Unit) {
        scope.launch { work() }
    }

    /** Runs [work] with the text engine, which nobody else uses meanwhile, and an interrupt that cancelling it ends. */
    suspend fun <T> withEngine(work: suspend (TextEngine, Interrupt) -> T): T = withContext(textThread) {
        try {
            Interrupt().use { interrupt -> watched(interrupt, null) { work(parts.engine, interrupt) } }
        } catch (cancelled: Cancelled) {
            currentCoroutineContext().ensureActive()
            throw Closed()
        }
    }

    /** Runs [work] on the text thread. */
    suspend fun <T> withSessions(work: () -> T): T = withContext(textThread) {
        checkOpen()
        work()
    }

    /**
     * The pieces of the answer to [prompt], continuing [session]; cancelling the collector, or [interrupt], ends it within a
     * run. [started]: pictures whose encoding was begun, by digest.
     */
    fun answer(
        session: Session,
        prompt: Prompt,
        config: GenerationConfig,
        interrupt: Interrupt,
        meter: Meter,
        started: Map<String, Encoded> = emptyMap(),
    ): Flow<Piece> = flow {
        watched(interrupt, config.maxSeconds?.minus(secondsSince(meter.asked))) {
            check(!session.isBusy) { "one answer at a time" }
            session.isBusy = true
            try {
                pieces(Generation(parts, session, prompt, config, interrupt, meter), prompt, interrupt, meter, started)
            } finally {
                session.isBusy = false
            }
        }
    }.flowOn(textThread)

    private suspend fun FlowCollector<Piece>.pieces(
        generation: Generation,
        prompt: Prompt,
        interrupt: Interrupt,
        meter: Meter,
        started: Map<String, Encoded>,
    ) {
        try {
            val encoded = encodedFor(generation.neededPictures, prompt, interrupt, meter, started)
            while (!step { generation.prefill(encoded) }) yield()
            while (true) {
                val piece = step { generation.next() }
                emit(piece)
                if (piece.stats.finishReason != null) break
                yield() // to the answers of other conversations
            }
        } catch (cancelled: Cancelled) {
            currentCoroutineContext().ensureActive()
            checkOpen()
            emit(generation.ended(checkNotNull(interrupt.reason)))
        }
    }

    /** A step of the engine, which [close] closes on this thread. */
    private fun <T> step(work: () -> T): T {
        checkOpen()
        return work()
    }

    private suspend fun encodedFor(
        wanted: Set<Int>,
        prompt: Prompt,
        interrupt: Interrupt,
        meter: Meter,
        started: Map<String, Encoded>,
    ): Map<Int, FloatArray> {
        if (wanted.isEmpty()) return emptyMap()
        val begin = now()
        val encoder = checkNotNull(encoder)
        val mine = ArrayList<Encoded>()
        try {
            val each = wanted.associateWith { index ->
                val picture = prompt.pictures[index]
                started[picture.digest] ?: encoder.start(picture).also(mine::add)
            }
            val tokens = each.mapValues { awaited(it.value, interrupt) }
            meter.encodeSeconds = each.values.sumOf { it.seconds }
            meter.encodeWaitSeconds = secondsSince(begin)
            return tokens
        } finally {
            mine.forEach(encoder::release)
        }
    }

    private suspend fun awaited(encoded: Encoded, interrupt: Interrupt): FloatArray {
        select<Unit> {
            encoded.tokens.onJoin {}
            interrupt.end.onJoin {}
        }
        if (interrupt.reason != null) throw Cancelled()
        return encoded.tokens.await()
    }

    /** Runs [work], while [interrupt] is ended by the caller's cancellation, by [close], or after so many [seconds]. */
    private suspend fun <T> watched(interrupt: Interrupt, seconds: Double?, work: suspend () -> T): T = coroutineScope {
        running.add(interrupt)
        // Unconfined: the text thread, where this runs, is in the middle of a run.
        val watch = launch(Dispatchers.Unconfined, CoroutineStart.UNDISPATCHED) {
            try {
                awaitCancellation()
            } finally {
                interrupt.end(FinishReason.CANCELLED)
            }
        }
        val timer = seconds?.let {
            interrupt.until = now() + (it * 1e9).toLong()
            launch(Dispatchers.Default) {
                delay((it * 1000).toLong())
                interrupt.end(FinishReason.DEADLINE) // within a run, where nobody looks at the clock
            }
        }
        try {
            checkOpen()
            work()
        } finally {
            running.remove(interrupt)
            timer?.cancel()
            interrupt.close() // what cancelling the watch ends is over
            watch.cancel()
        }
    }

    /** Gives memory back that nothing needs now; returns at once. */
    fun trim(level: Trim) {
        when (level) {
            Trim.VISION -> encoder?.free()
            Trim.CACHES -> encoder?.clear()
            Trim.IDLE_KV -> onTextThread { sessions.forEach(Session::free) }
        }
    }

    /** Returns at once: what runs is ended, and memory is given back by the threads that use it. */
    fun close() {
        if (isClosed) return
        isClosed = true
        running.forEach { it.end(FinishReason.CANCELLED) }
        encoder?.close()
        onTextThread {
            sessions.forEach(Session::close)
            sessions.clear()
            parts.engine.close()
        }
    }

    companion object {
        /**
         * Loads a bundle that was opened and found loadable.
         *
         * @throws NoMemory it needs more than the budget, or its KV cache more than the machine has
         * @throws dev.pocketvlm.PocketVlmException a part does not load
         */
        fun of(bundle: Bundle, options: Options, onProgress: (LoadStep) -> Unit = {}): LoadedModel {
            val needed = neededBytes(bundle)
            val name = bundle.manifest.model.name
            if (options.memoryBudget in 1 until needed) throw NoMemory(name, needed, options.memoryBudget)
            val physical = physicalMemory()
            if (physical != null && kvBytes(bundle.manifest) > physical) throw NoMemory(name, needed, physical)
            return LoadedModel(bundle, options, onProgress)
        }
    }
}

/** One thread, which is there only while it has work. */
private fun worker(name: String): ExecutorService {
    val pool = ThreadPoolExecutor(1, 1, IDLE_SECONDS, TimeUnit.SECONDS, LinkedBlockingQueue()) { work ->
        Thread(work, name).also { it.isDaemon = true }
    }
    pool.allowCoreThreadTimeOut(true)
    return pool
}

private const val IDLE_SECONDS = 10L
