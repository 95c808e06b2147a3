-- Notifications -----------------------------------------------------------------------------------------------------

-- NOTIFY ruvector_healing with the action's number, at the commit of whatever changed its status: mostly the healer's or a
-- worker's. What changed is read from ruvector.actions; a payload would be a second truth.
CREATE FUNCTION ruvector._notify_status() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('ruvector_healing', NEW.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_new AFTER INSERT ON ruvector.actions
    FOR EACH ROW EXECUTE FUNCTION ruvector._notify_status();
CREATE TRIGGER notify_status AFTER UPDATE OF status ON ruvector.actions
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION ruvector._notify_status();
