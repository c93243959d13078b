package dev.pocketvlm.android

import android.app.ActivityManager
import android.content.ComponentName
import android.content.Context
import android.os.Looper
import android.os.Process
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException.BundleDamaged
import dev.pocketvlm.PocketVlmException.EngineFailed
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.awaitCancellation
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.shadows.ShadowProcess
import org.robolectric.util.ReflectionHelpers
import java.io.File
import java.util.concurrent.atomic.AtomicReference
import kotlin.concurrent.thread

@RunWith(RobolectricTestRunner::class)
class EngineProbeTest {
    @get:Rule
    val temporary = TemporaryFolder()
    private val records: File get() = temporary.root.resolve("records")
    private val info by lazy { PocketVlm.inspect(bundle) }
    private val probed = ArrayList<File>()
    private val context: Context = RuntimeEnvironment.getApplication()

    @Before
    fun giveMemory() {
        val memory = ActivityManager.MemoryInfo().apply { availMem = 8L shl 30 }
        shadowOf(context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).setMemoryInfo(memory)
    }

    /** A process that ends so, time after time. */
    private fun probe(vararg events: ProbeEvent): EngineProbe {
        val left = ArrayDeque(events.toList())
        return EngineProbe(records) { one, engine ->
            probed.add(one)
            assertTrue(ProbeRecord(records, info, engine).read() is ProbeState.Running) // on the disk before it starts
            left.removeFirst()
        }
    }

    private fun EngineProbe.choice(): ProbeChoice = runBlocking { firstThatWorks(listOf(bundle)) }

    private fun EngineProbe.refusal(): String = checkNotNull(assertThrows(EngineFailed::class.java) { choice() }.message)

    @Test
    fun `each state goes where each event leads`() {
        val table = listOf(
            Triple("unknown 0", ProbeEvent.Started, "running 0"),
            Triple("unknown 1", ProbeEvent.Started, "running 1"),
            Triple("unknown 1", ProbeEvent.Answered, "unknown 1"),
            Triple("running 0", ProbeEvent.Started, "running 0"),
            Triple("running 1", ProbeEvent.Answered, "works"),
            Triple("running 1", ProbeEvent.Undecided, "unknown 1"),
            Triple("running 0", ProbeEvent.Failed("no\nkernel"), "fails no kernel"),
            Triple("running 0", ProbeEvent.Died, "unknown 1"),
            Triple("running 1", ProbeEvent.Died, "fails its process ended 2 times before it answered"),
            Triple("works", ProbeEvent.Died, "works"),
            Triple("fails for a reason", ProbeEvent.Answered, "fails for a reason"),
        )
        for ((before, event, behind) in table) assertEquals(behind, decodedProbe(before).after(event).encoded())
    }

    @Test
    fun `a damaged record says nothing`() {
        val lines = listOf("", "works not", "fails", "fails ", "running", "unknown x", "unknown 9", "\u0000", "a".repeat(9999))
        for (line in lines) {
            val state = decodedProbe(line)
            assertTrue(line, state is ProbeState.Unknown || state is ProbeState.Running)
        }
        assertEquals(302 + "fails ".length, ProbeState.Fails("a".repeat(9999)).encoded().length - 2)
        records.mkdirs()
        ProbeRecord(records, info, "onnx").write(ProbeState.Works)
        records.listFiles()!!.single().writeText("works".repeat(9999))
        assertEquals("unknown 0", ProbeRecord(records, info, "onnx").read().encoded())
    }

    @Test
    fun `what works is asked once`() {
        repeat(3) { assertEquals(bundle, probe(ProbeEvent.Answered).choice().bundle) }
        assertEquals(1, probed.size)
    }

    @Test
    fun `a process that dies is started once more, then refused for good with the reason`() {
        assertTrue("its process ended 2 times" in probe(ProbeEvent.Died, ProbeEvent.Died).refusal())
        assertEquals(2, probed.size)
        assertTrue("its process ended" in probe().refusal())
        assertEquals(2, probed.size)
    }

    @Test
    fun `one that dies once works`() {
        assertEquals(bundle, probe(ProbeEvent.Died, ProbeEvent.Answered).choice().bundle)
    }

    @Test
    fun `who finds a probe that nobody saw the end of counts it as dead`() {
        ProbeRecord(records, info, "onnx").write(ProbeState.Running(1))
        assertTrue("its process ended" in probe().refusal())
        ProbeRecord(records, info, "onnx").write(ProbeState.Running(0))
        assertEquals(bundle, probe(ProbeEvent.Answered).choice().bundle)
    }

    @Test
    fun `too little memory decides nothing`() {
        assertTrue("could not be tried" in probe(ProbeEvent.Undecided).refusal())
        assertEquals(bundle, probe(ProbeEvent.Answered).choice().bundle)
    }

    @Test
    fun `a probe that is cancelled decides nothing`() {
        repeat(3) {
            val asking = EngineProbe(records) { _, _ -> awaitCancellation() }
            runBlocking {
                val job = launch(Dispatchers.IO) { asking.firstThatWorks(listOf(bundle)) }
                waitUntil("it runs") { ProbeRecord(records, info, "onnx").read() is ProbeState.Running }
                job.cancelAndJoin()
            }
            assertEquals("unknown 0", ProbeRecord(records, info, "onnx").read().encoded())
        }
    }

    @Test
    fun `the next bundle is the fallback, and the reason is said`() {
        val other = temporary.newFolder("other").also { bundle.copyRecursively(it, overwrite = true) }
        val manifest = other.resolve("manifest.json")
        manifest.appendText("\n") // another digest
        val choice = runBlocking {
            EngineProbe(records) { one, _ -> if (one == other) ProbeEvent.Failed("no such kernel") else ProbeEvent.Answered }
                .firstThatWorks(listOf(other, bundle))
        }
        assertEquals(bundle, choice.bundle)
        assertEquals(mapOf(other to "no such kernel"), choice.refused)
        assertEquals("onnx", choice.engine)
    }

    @Test
    fun `a verdict is of one engine`() {
        probe(ProbeEvent.Failed("no such kernel")).refusal()
        assertTrue(ProbeRecord(records, info, "onnx").read() is ProbeState.Fails)
        assertEquals("unknown 0", ProbeRecord(records, info, "qnn").read().encoded())
    }

    @Test
    fun `an engine that this library has not is not tried, and the reason is said`() {
        val other = temporary.newFolder("npu").also { bundle.copyRecursively(it, overwrite = true) }
        val manifest = other.resolve("manifest.json")
        val preference = """"preference": [{"engine": "executorch", "chips": ["SM8650"]}, {"engine": "onnx"}], """
        val text = manifest.readText().replaceFirst(Regex("\"format_version\": *[0-9]+"), "\"format_version\": 4")
        manifest.writeText(text.replaceFirst(Regex("\"engines\": *\\{"), "$preference\"engines\": {\"executorch\": {}, "))
        val engines = ArrayList<String>()
        val asking = EngineProbe(records) { _, engine -> ProbeEvent.Answered.also { engines.add(engine) } }
        val choice = runBlocking { asking.firstThatWorks(listOf(other)) }
        assertEquals(listOf("onnx"), engines)
        assertEquals("onnx", choice.engine)
        assertEquals(mapOf("executorch" to "this program has no engine for it"), choice.skipped)
    }

    @Test
    fun `another system image starts from nothing`() {
        probe(ProbeEvent.Failed("old driver")).refusal()
        ReflectionHelpers.setStaticField(android.os.Build::class.java, "FINGERPRINT", "another/image")
        assertEquals(bundle, probe(ProbeEvent.Answered).choice().bundle)
    }

    @Test
    fun `a damaged bundle is no matter of the device`() {
        assertThrows(BundleDamaged::class.java) { runBlocking { probe().firstThatWorks(listOf(File("/nowhere"))) } }
        assertTrue(!records.exists())
    }

    /** In one process: Robolectric has no second one, so a process that dies is seen here only as the system's call. */
    @Test
    fun `the service loads, answers and ends its process`() {
        val service = Robolectric.buildService(ProbeService::class.java).create()
        val name = ComponentName(context, ProbeService::class.java)
        shadowOf(RuntimeEnvironment.getApplication()).setComponentNameAndServiceForBindService(name, service.get().onBind(intent()))
        val ends = listOf(bundle, File("/nowhere")).map { asked ->
            val end = AtomicReference<ProbeEvent>()
            thread { end.set(runBlocking { RemoteProbe(context).run(asked, "onnx") }) }
            waitUntil("a verdict of $asked") {
                shadowOf(Looper.getMainLooper()).idle()
                end.get() != null
            }
            end.get()
        }
        assertEquals(ProbeEvent.Answered, ends[0])
        assertTrue("/nowhere is not a bundle" in (ends[1] as ProbeEvent.Failed).reason)
        ShadowProcess.clearKilledProcesses()
        service.destroy()
        assertTrue(ShadowProcess.wasKilled(Process.myPid()))
    }

    @Test
    fun `a process that goes is one that died`() {
        val application = shadowOf(RuntimeEnvironment.getApplication())
        val name = ComponentName(context, ProbeService::class.java)
        application.setComponentNameAndServiceForBindService(name, android.os.Binder()) // never answers
        val end = AtomicReference<ProbeEvent>()
        thread { end.set(runBlocking { RemoteProbe(context).run(bundle, "onnx") }) }
        waitUntil("it is bound") {
            shadowOf(Looper.getMainLooper()).idle()
            application.boundServiceConnections.isNotEmpty()
        }
        shadowOf(Looper.getMainLooper()).idle()
        application.boundServiceConnections.single().onServiceDisconnected(name)
        waitUntil("a verdict") {
            shadowOf(Looper.getMainLooper()).idle()
            end.get() != null
        }
        assertEquals(ProbeEvent.Died, end.get())
    }

    private fun intent() = android.content.Intent(context, ProbeService::class.java)
}
